// node hear.js CLIENT URL: prints each event that a client hands its user, a JSON object a line: type, data, id.
// The working directory has the node_modules of package-lock.json beside this file.
"use strict";
const load = require("node:module").createRequire(process.cwd() + "/");
const [, , client, url] = process.argv;
const TYPES = ["message", "reset", "gap"];
const tell = (type, data, id) => process.stdout.write(JSON.stringify({ type, data, id }) + "\n");

function source(made) {
  for (const type of TYPES) made.addEventListener(type, event => tell(type, event.data, event.lastEventId));
  made.onerror = () => {}; // it comes back by itself
}

const clients = {
  eventsource: () => source(new (load("eventsource").EventSource)(url)),

  "launchdarkly-eventsource": () => source(new (load("launchdarkly-eventsource").EventSource)(url)),

  "event-source-polyfill": () => source(new (load("event-source-polyfill").EventSourcePolyfill)(url)),

  "@microsoft/fetch-event-source": () => {
    globalThis.window = globalThis; // it is made for browsers, and needs no more of one
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    load("@microsoft/fetch-event-source").fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: event => tell(event.event || "message", event.data, event.id),
      onclose() { throw new Error("its README says: throw, and it comes back"); },
      onerror() {},
    });
  },
};
clients[client]();
