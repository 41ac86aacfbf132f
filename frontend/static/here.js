// Shows in examples the address by which the browser reached this page: a proxy may serve it by https, and under a path of its own.
"use strict";
const here = new URL(document.currentScript.dataset.root, document.baseURI).href;
for (const shown of document.querySelectorAll(".here")) shown.textContent = here;
