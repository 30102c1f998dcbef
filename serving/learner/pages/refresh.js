// Keeps the board fresh: fetches this page again and swaps its #board, as long as somebody can see it. Pages without one stay as they are.
const EVERY_MS = 3000;
async function refresh() {
  const board = document.getElementById("board");
  const inUse = board.contains(document.activeElement?.closest("button")) || board.querySelector(":active");
  if (!document.hidden && !inUse) {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("board");
      for (const details of board.querySelectorAll("details[open]")) fresh.querySelector(`#${details.id}`).open = true;
      board.replaceWith(fresh);
      document.body.classList.remove("silent");
    } catch {
      document.body.classList.add("silent");
    }
  }
  setTimeout(refresh, EVERY_MS);
}
if (document.getElementById("board")) setTimeout(refresh, EVERY_MS);
