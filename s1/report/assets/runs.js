// A box hides or shows the curve of its run.
for (const box of document.querySelectorAll("input[data-run]"))
  box.onchange = () => {
    for (const part of document.querySelectorAll(`.curve [id^="run-${box.dataset.run}-"]`))
      part.style.display = box.checked ? "" : "none";
  };
