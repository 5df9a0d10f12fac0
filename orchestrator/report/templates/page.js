"use strict";
// Sorting: a click on a heading orders the rows by that column, figures from the highest, names from the first; a second
// click the other way. Empty places stay last.
const isEmpty = (cell) => ["", "–"].includes(cell.textContent.trim());
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  for (const heading of table.querySelectorAll("th[data-column]")) {
    const column = Number(heading.dataset.column);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const figures = [...body.rows].some((row) => row.cells[column].dataset.value !== undefined);
      const before = heading.getAttribute("aria-sort");
      const upwards = before === null ? !figures : before === "descending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const rows = [...body.rows].sort((first, second) => {
        const [a, b] = [first.cells[column], second.cells[column]];
        const [empty, other] = [isEmpty(a), isEmpty(b)];
        if (empty || other) return Number(empty) - Number(other);
        const numbers = a.dataset.value !== undefined && b.dataset.value !== undefined;
        const order = numbers
          ? Number(a.dataset.value) - Number(b.dataset.value)
          : a.textContent.localeCompare(b.textContent, "en", { numeric: true });
        return upwards ? order : -order;
      });
      body.append(...rows);
    });
  }
}
// The pictures of one setting at a time.
for (const chooser of document.querySelectorAll("select[data-chooses]")) {
  chooser.addEventListener("change", () => {
    for (const tile of document.querySelectorAll("[data-setting]")) tile.hidden = tile.dataset.setting !== chooser.value;
  });
}
// A link to a result or a step opens it, and what it lies in.
function open() {
  let place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const target = place;
  for (; place; place = place.parentElement) if (place.tagName === "DETAILS") place.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", open);
if (location.hash) open();
