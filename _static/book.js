"use strict";

// Printed pages show what is folded on the screen.
addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details:not([open])")) {
    box.open = true;
    box.dataset.openedForPrint = "";
  }
});
addEventListener("afterprint", () => {
  for (const box of document.querySelectorAll("details[data-opened-for-print]")) {
    box.open = false;
    delete box.dataset.openedForPrint;
  }
});

// A page that was opened from a folder may not read the others, from which the search would quote.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The set-up page makes a link to the reader's own JupyterHub.
addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".hub-form");
  if (!form) return;
  const address = form.querySelector("#hub-address");
  const chapter = form.querySelector("#hub-chapter");
  const wanted = new URLSearchParams(location.search).get("chapter");
  if ([...chapter.options].some((option) => option.value === wanted)) {
    chapter.value = wanted;
    address.focus();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { repository, branch } = form.dataset;
    const folder = repository.replace(/\/+$/, "").split("/").pop();
    const query = new URLSearchParams({
      repo: repository,
      branch,
      urlpath: `lab/tree/${folder}/${chapter.value}`,
    });
    const hub = address.value.replace(/\/+$/, "").replace(/\/hub$/, "");
    const link = document.createElement("a");
    link.href = `${hub}/hub/user-redirect/git-pull?${query}`;
    link.textContent = `Open ${chapter.selectedOptions[0].text} on ${new URL(hub).host}`;
    form.querySelector(".hub-link").replaceChildren(link);
    link.focus();
  });
});
