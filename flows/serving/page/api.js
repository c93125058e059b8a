// The server, from the page's side.

const INCLUDED = ["input", "reconstructed", "restored", "levels", "codes"].map((one) => `include=${one}`).join("&");
const TRIES = 20;
let key = sessionStorage.getItem("key") ?? "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(given) {
  key = given;
  sessionStorage.setItem("key", given);
}

export const model = () => ask("/model", {});

export const inspect = (file, name) => ask(`/inspect?${INCLUDED}&name=${encodeURIComponent(name)}`, {
  method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
});

export function compare(file, reference) {
  const body = new FormData();
  body.append("image", file);
  body.append("reference", reference);
  return ask("/compare?levels=true", { method: "POST", body });
}

export const explain = (position) => ask("/explain", {
  method: "POST", body: JSON.stringify(position), headers: { "Content-Type": "application/json" },
});

// A page of the server to look at in a tab of its own. With a key it cannot be linked to, so it is fetched.
export async function open(event) {
  if (!key) return;
  event.preventDefault();
  const tab = window.open("about:blank");
  const response = await reached(event.target.href, { headers: { "X-API-Key": key } });
  tab.location = URL.createObjectURL(await response.blob());
}

// One answer as JSON. A server that is busy says when to come back; Refused carries its one line.
async function ask(address, options) {
  for (let tried = 1; ; tried++) {
    const response = await reached(address, { ...options, headers: { ...options.headers, ...(key && { "X-API-Key": key }) } });
    if (response.ok) return response.json();
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status === 503 && wait && tried < TRIES) {
      await new Promise((done) => setTimeout(done, 1000 * wait));
      continue;
    }
    const told = await response.json().catch(() => ({}));
    throw new Refused(response.status, told.detail ?? `the server answered ${response.status}`);
  }
}

async function reached(address, options) {
  try {
    return await fetch(address, options);
  } catch {
    throw new Refused(0, "the server cannot be reached; is `kintsugi serve` running?");
  }
}
