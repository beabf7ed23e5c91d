for (const head of document.querySelectorAll(".sortable thead th")) head.firstElementChild.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? order : -order;
  };
  body.append(...[...body.rows].sort(compare));
});

const add = (parent, tag, attributes = {}) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
};
const keys = new Map([...document.querySelectorAll("[data-key]")].map(key => [key.dataset.key, key]));
for (const data of document.querySelectorAll("script.values")) {
  const { unit, labels, positions, values } = JSON.parse(data.textContent);
  const figure = data.closest("figure"), drawing = figure.querySelector(".drawing");
  const readout = add(figure, "div", { class: "readout" });
  const label = add(readout, "label"), name = add(label, "span");
  const slider = add(label, "input", { type: "range", min: 0, max: labels.length - 1, value: labels.length - 1 });
  const list = add(readout, "ul");
  const line = add(drawing, "div", { class: "line", hidden: "" });
  const rows = values.map(([index, texts]) => {
    const row = add(list, "li", { class: "arm-" + index });
    row.append(keys.get(String(index)).cloneNode(true));
    return [add(row, "span"), texts];
  });
  const show = () => {
    const place = Number(slider.value);
    name.textContent = unit + " " + labels[place];
    slider.setAttribute("aria-valuetext", name.textContent);
    for (const [cell, texts] of rows) cell.textContent = texts[place] || "–";
    line.style.left = 100 * positions[place] + "%";
  };
  slider.addEventListener("input", () => { line.hidden = false; show(); });
  drawing.addEventListener("pointermove", event => {
    const box = drawing.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
    let nearest = 0;
    positions.forEach((position, i) => {
      if (Math.abs(position - at) < Math.abs(positions[nearest] - at)) nearest = i;
    });
    slider.value = nearest;
    line.hidden = false;
    show();
  });
  show();
}
