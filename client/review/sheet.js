// Collects the verdicts of this page and saves them as a file. Nothing is sent anywhere.
"use strict";
(() => {
  const form = document.getElementById("verdicts");
  const told = document.getElementById("told");
  const strips = [...form.querySelectorAll("fieldset[data-strip]")];
  let unsaved = false;

  const verdict = (strip) => strip.querySelector("input[type=radio]:checked")?.value ?? "";
  const comment = (strip) => strip.querySelector("input[type=text]").value.trim();
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;

  const tell = () => {
    const done = strips.filter(verdict).length;
    told.textContent = `${done} of ${strips.length} strips have a verdict${unsaved ? "; not saved yet" : ""}`;
  };

  form.addEventListener("input", () => { unsaved = true; tell(); });
  form.addEventListener("submit", (event) => event.preventDefault());

  document.getElementById("save").addEventListener("click", () => {
    const silent = strips.find((strip) => comment(strip) && !verdict(strip));
    if (silent) {
      told.textContent = `Strip ${silent.dataset.strip} has a comment and no verdict: choose one, or empty the comment`;
      silent.scrollIntoView({ block: "center" });
      return;
    }
    const lines = strips.map((strip) =>
      [form.dataset.sheet, strip.dataset.strip, verdict(strip), quoted(comment(strip))].join(","));
    const text = ["sheet,strip,verdict,comment", ...lines].join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    link.download = `verdicts-${form.dataset.sheet.slice(0, 8)}.csv`;
    link.click();
    unsaved = false;
    tell();
  });

  window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  document.getElementById("bar").hidden = false;
  tell();
})();
