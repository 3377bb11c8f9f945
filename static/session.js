// Who uses the page, where the server asks: a token is shown once, and from then on a cookie stands for it, which
// no script can read.

import * as api from "./api.js";
import { $, element } from "./dom.js";
import { sentence } from "./format.js";

let scopes = ["read", "write"]; // until the server has said which
let named = false;
let known = false; // we were named, and have not signed out here
let entered = 0; // times that somebody signed in
let lying = null;
let looked = null; // when the server has said so for the first time
let changed = () => {};

/** Whether the server would let us do what needs this scope. */
export const may = (scope) => scopes.includes(scope);

/** Where the server lies about a track's bytes, if it is one that is made for that ("/demo/lies"); null. */
export const lies = async () => {
  await looked;
  return lying;
};

/** Learn who we are; `done` is called whenever that becomes another one. */
export async function start(done) {
  changed = done;
  $("session").addEventListener("click", () => (named ? leave() : ask()));
  $("sign-in").addEventListener("close", () => ($("token").value = ""));
  $("sign-in-form").addEventListener("submit", enter);
  $("sign-in-cancel").addEventListener("click", () => $("sign-in").close());
  looked = look();
  await looked;
  if (!may("read")) ask();
}

/** Learn again who we are: a session ends with its token. */
export async function look() {
  const before = entered;
  try {
    const now = await api.session();
    if (entered === before) show(now); // else it is what held before somebody signed in
  } catch {
    // A server that cannot be reached says so where something is asked of it.
  }
}

/** Ask for a token, and say what for. */
export function ask(why = "") {
  $("sign-in-why").textContent = why;
  $("sign-in-problem").hidden = true;
  if (!$("sign-in").open) $("sign-in").showModal();
  $("token").focus();
}

/** A request was refused: if that is for want of a session, ours has ended, here or in another tab, and a token is asked for. */
export function refused(code, why = known ? "Your session has ended: sign in again." : null) {
  if (code !== "unauthorized") return;
  look();
  if (why !== null && !$("sign-in").open) ask(why);
}

function show(session) {
  scopes = session.scopes;
  named = session.name !== null;
  known ||= named;
  lying = session.lies ?? null;
  $("session").hidden = session.mode === "open";
  const button = $("session");
  button.replaceChildren(...(named ? ["Sign out ", element("span", { class: "who" }, session.name)] : ["Sign in"]));
  button.setAttribute("aria-label", button.textContent); // small screens show no name
  button.title = button.textContent;
  $("add").hidden = !may("write");
}

async function enter(event) {
  event.preventDefault();
  const token = $("token").value.trim();
  try {
    if (!/^[!-~]+$/.test(token)) throw new Error("the token is not valid"); // and no header could hold it
    const now = await api.signIn(token);
    entered += 1;
    show(now);
  } catch (error) {
    $("sign-in-problem").textContent = sentence(error.message);
    $("sign-in-problem").hidden = false;
    $("token").select();
    return;
  }
  $("sign-in").close();
  changed();
}

async function leave() {
  await api.signOut().catch(() => null);
  await look();
  known = named;
  dispatchEvent(new Event("harmony4-left")); // whoever comes next has no keys of ours
  changed();
}
