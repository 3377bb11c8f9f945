// Which containers were checked here, whole and against a signature: until the browser window is closed.

const KEPT = "harmony4-verified";
const heads = () => new Set(JSON.parse(sessionStorage.getItem(KEPT) ?? "[]"));

export const remember = (head) => sessionStorage.setItem(KEPT, JSON.stringify([...heads().add(head)].slice(-1000)));
export const verified = (head) => heads().has(head);
