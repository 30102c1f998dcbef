"""Who competes with the champion: the standing challenger, the declared field, offered models, the former champion."""
