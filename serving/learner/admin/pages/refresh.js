// Keeps the board fresh: fetches this page again and swaps its #board, as long as somebody can see it. Pages without one stay as they are.
const EVERY_MS = 3000;
function heard(answers) {
  document.body.classList.toggle("silent", !answers);
  if (!answers && document.activeElement?.closest("button")) document.activeElement.blur();
  for (const button of document.querySelectorAll("form button")) button.disabled = !answers;
}
async function refresh() {
  if (!document.hidden) {
    try {
      // a path alone would be asked for with the name and password of the page's own address, which browsers refuse
      const answer = await fetch(new URL(location.pathname, location.origin), { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const board = document.getElementById("board");
      const fresh = page.getElementById("board");
      const inUse = board.contains(document.activeElement?.closest("button")) || board.querySelector(":active");
      heard(true);
      if (!inUse) {
        for (const details of board.querySelectorAll("details[open]")) fresh.querySelector(`#${details.id}`).open = true;
        board.replaceWith(fresh);
      }
    } catch {
      heard(false);
    }
  }
  setTimeout(refresh, EVERY_MS);
}
if (document.getElementById("board")) setTimeout(refresh, EVERY_MS);
