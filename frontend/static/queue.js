// Sends a command without leaving the page and shows the answer. Without this script, the forms do the same.
"use strict";
const body = document.getElementById("body");
const answer = document.getElementById("answer");
async function send(event) {
  event.preventDefault();
  const example = event.submitter && event.submitter.name === "body" ? event.submitter.value : null;
  if (example !== null) body.value = example;
  try {
    const reply = await fetch(event.target.action, { method: "POST", body: new URLSearchParams({ body: body.value }) });
    answer.textContent = await reply.text();
    answer.className = answer.textContent.startsWith('{"error"') ? "error" : "";
  } catch (error) {
    answer.textContent = "No answer: " + error.message;
    answer.className = "error";
  }
}
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", send);
