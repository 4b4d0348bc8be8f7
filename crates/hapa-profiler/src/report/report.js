"use strict";
const flame = document.getElementById("flame");
if (flame) {
  flame.addEventListener("click", (event) => {
    const bar = event.target.closest(".bar");
    if (!bar) return;
    for (const node of flame.querySelectorAll(".out, .whole")) node.classList.remove("out", "whole");
    // The chosen bar and those above it take the whole width; their siblings go.
    for (let node = bar.parentElement; node !== flame; node = node.parentElement.closest(".node") || flame) {
      node.classList.add("whole");
      for (const other of node.parentElement.children)
        if (other !== node && other.classList.contains("node")) other.classList.add("out");
    }
  });
}
const heads = [...document.querySelectorAll("#scopes th")];
heads.forEach((head, column) => {
  head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = document.querySelector("#scopes tbody");
    const key = (row) => {
      const cell = row.cells[column];
      return column === 0 ? cell.textContent : Number(cell.dataset.key);
    };
    const rows = [...body.rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
    body.append(...(down ? rows.reverse() : rows));
  });
});
