// Sends the form without leaving the page and shows the answer; a click on an example fills it in.
"use strict";
const form = document.getElementById("command");
const answer = document.getElementById("answer");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const reply = await fetch("/queue", { method: "POST", body: new URLSearchParams(new FormData(form)) });
    answer.textContent = await reply.text();
    answer.className = reply.ok ? "" : "error";
  } catch (error) {
    answer.textContent = "No answer: " + error.message;
    answer.className = "error";
  }
});
document.getElementById("examples").addEventListener("click", (event) => {
  if (event.target.tagName === "CODE") document.getElementById("body").value = event.target.textContent;
});
