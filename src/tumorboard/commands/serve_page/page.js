// The list of images: takes files, sends a few at a time, shows the answers, sorts and saves them.

import { className, element, fillDetails, percent } from "./details.js";

const AT_ONCE = 3; // uploads; fewer than the server lets wait, so that it need not refuse any
const MOST_IMAGES = 1000; // in the list
const byId = (id) => document.getElementById(id);
const body = byId("table").tBodies[0];
const items = []; // { file, name, state, answer, row, details }; state: waiting, sent, done or failed
let panel;
let sorting = { column: null, down: false };
let running = 0;

// ---- the server

function post(address, parameters, file, onProgress) {
  const large = file.size > panel.max_bytes; // then its beginning is enough for the answer
  if (large) parameters.size = file.size;
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${address}?${new URLSearchParams(parameters)}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error("No answer: has the server ended, or was the file moved?"));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(large ? file.slice(0, panel.head_bytes) : file);
  });
}

// Returns the answer; waits and tries again while the server is busy.
async function ask(address, parameters, file, onProgress = () => {}) {
  for (;;) {
    const request = await post(address, parameters, file, onProgress);
    if (request.status === 200) return request.response;
    if (request.status !== 503) throw new Error(request.response?.problem || `The server answered ${request.status}.`);
    const seconds = Number(request.getResponseHeader("Retry-After") || 1);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (1 + Math.random())));
  }
}

const askMaps = (item, label) => ask("/api/maps", { label }, item.file);

// ---- the files

function add(files) {
  const room = MOST_IMAGES - items.length;
  if (files.length > room) warn(`This page lists ${MOST_IMAGES} images; the last ${files.length - room} were left out. tumorboard predict takes any number.`);
  for (const { file, name } of files.slice(0, room)) {
    const item = { file, name, state: "waiting", answer: null, row: element("tr"), details: null };
    items.push(item);
    body.append(item.row);
    drawRow(item);
  }
  byId("files").value = "";
  drawState();
  pump();
}

function warn(sentence) {
  const box = byId("warnings");
  box.hidden = false;
  box.replaceChildren(element("p", { textContent: sentence }));
}

function pump() {
  while (running < AT_ONCE) {
    const item = items.find((one) => one.state === "waiting");
    if (!item) break;
    running += 1;
    item.state = "sent";
    classify(item).finally(() => {
      running -= 1;
      pump();
    });
  }
}

async function classify(item) {
  drawWork(item, "sending", 0);
  try {
    item.answer = await ask("/api/images", { name: item.name.slice(-panel.longest_name) }, item.file, (share) =>
      drawWork(item, share < 1 ? "sending" : "classifying", share < 1 ? share : null));
    item.state = "done";
  } catch (error) {
    item.state = "failed";
    item.problem = error.message;
  }
  if (!items.includes(item)) return;
  drawRow(item);
  if (items.length === 1 && item.answer?.crop) toggle(item);
  drawState();
}

// The files of a drop, those in folders too.
async function filesOf(transfer) {
  const entries = [...transfer.items].filter((one) => one.kind === "file").map((one) => one.webkitGetAsEntry?.() ?? one.getAsFile());
  const files = [];
  const walk = async (entry) => {
    if (entry instanceof File) files.push({ file: entry, name: entry.name });
    else if (entry?.isFile) {
      const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
      if (file) files.push({ file, name: entry.fullPath.replace(/^\//, "") });
    } else if (entry?.isDirectory) {
      const reader = entry.createReader();
      for (let some; (some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])))).length;) {
        for (const inner of some) if (!inner.name.startsWith(".")) await walk(inner);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

// ---- the table

function columns() {
  const cell = (name, of, more = {}) => ({ name, of, ...more });
  const row = (item) => item.answer?.row;
  return [
    cell("file", (item) => item.name),
    cell("decided", (item) => row(item)?.decided),
    cell("probability", (item) => row(item)?.probability, { number: percent }),
    cell("agreeing", (item) => row(item)?.agreeing, { number: (text) => text }),
    ...panel.classes.map((name) => cell(`p_${name}`, (item) => row(item)?.probabilities[name], { number: percent, quiet: true })),
    cell("unlike", (item) => row(item)?.unlike, { number: (score) => score.toFixed(2) }),
    cell("known", (item) => row(item)?.known),
    cell("problem", (item) => row(item)?.problem || item.problem, { unseen: true }),
  ];
}

function drawHead() {
  const head = byId("table").tHead.rows[0];
  for (const { name, number, unseen } of columns()) {
    byId("sort").append(element("option", { value: `${name} up`, textContent: `${name} ↑` }), element("option", { value: `${name} down`, textContent: `${name} ↓` }));
    if (unseen) continue;
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", () => sort(name, sorting.column === name && !sorting.down));
    const cell = element("th", { scope: "col", className: number ? "n" : "" }, button);
    cell.dataset.column = name;
    head.append(cell);
  }
  byId("sort").prepend(element("option", { value: "", textContent: "as added" }));
  byId("sort").addEventListener("change", (event) => {
    const [, name, way] = event.target.value.match(/^(.*) (up|down)$/) || [];
    sort(name ?? null, way === "down");
  });
}

// Empty cells are last in either direction.
function sort(column, down) {
  sorting = { column, down };
  const of = columns().find((one) => one.name === column)?.of;
  const order = [...items];
  const sign = down ? -1 : 1;
  const empty = (value) => value === undefined || value === null || value === "";
  if (of) order.sort((one, other) => {
    const [a, b] = [of(one), of(other)];
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  const focused = document.activeElement;
  body.append(...order.flatMap((item) => (item.details ? [item.row, item.details] : [item.row])));
  if (focused !== document.activeElement) focused.focus({ preventScroll: true }); // a moved element loses it
  for (const cell of byId("table").tHead.rows[0].cells) {
    if (cell.dataset.column === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  byId("sort").value = column ? `${column} ${down ? "down" : "up"}` : "";
  return order;
}

function drawRow(item) {
  const { answer } = item;
  const thumb = answer?.crop ? element("img", { className: "thumb", src: answer.crop, alt: "" }) : element("i", { className: "thumb" });
  const open = element("button", { type: "button", className: "open", disabled: !answer?.crop }, thumb, element("span", { textContent: item.name }));
  if (answer?.crop) open.setAttribute("aria-expanded", "false");
  item.row.onclick = () => answer?.crop && toggle(item); // the button's clicks arrive here too
  item.row.replaceChildren(element("td", { className: "file" }, open));
  if (answer?.crop) item.row.append(...columns().slice(1).filter((one) => !one.unseen).map((one) => drawCell(one, item)));
  else if (item.state === "waiting") drawWork(item, "waiting", null);
  else spanCell(item, "problem").textContent = answer?.row.problem || item.problem;
}

function drawCell({ name, of, number, quiet }, item) {
  const value = of(item);
  const empty = value === null || value === "";
  const cell = element("td", { className: [number && "n", (quiet || (empty && name !== "decided")) && "quiet"].filter(Boolean).join(" ") });
  if (name === "decided") cell.append(className(panel, value));
  else if (!empty) cell.textContent = number ? number(value) : name === "known" ? `${value} data` : value;
  if (name === "agreeing" && !empty) cell.textContent = value;
  if (name === "unlike" && !empty) {
    const unlike = value >= 1;
    cell.classList.add(unlike ? "alarm" : "quiet");
    if (unlike) cell.textContent = `unlike ${number(value)}`;
  }
  return cell;
}

function spanCell(item, className) {
  item.row.cells[1]?.remove();
  const cell = element("td", { className, colSpan: columns().length - 2 });
  item.row.append(cell);
  return cell;
}

function drawWork(item, text, share) {
  const cell = item.row.querySelector(".working") || spanCell(item, "working soft");
  const bar = element("progress", { max: 1 });
  if (share !== null) bar.value = share;
  bar.setAttribute("aria-label", `${text} ${item.name}`);
  cell.replaceChildren(text, ...(text === "waiting" ? [] : [bar]));
}

function toggle(item) {
  const open = item.row.querySelector(".open");
  const show = open.getAttribute("aria-expanded") !== "true";
  open.setAttribute("aria-expanded", String(show));
  if (!item.details) {
    const cell = element("td", { colSpan: columns().length - 1 });
    item.details = element("tr", { className: "detail" }, cell);
    fillDetails(cell, item, panel, askMaps);
    item.row.after(item.details);
  }
  item.details.hidden = !show;
}

function drawState() {
  const count = (wanted) => items.filter(wanted).length;
  const done = count((item) => item.state === "done");
  const failed = count((item) => item.state === "failed");
  const unusable = count((item) => item.answer?.row.problem);
  byId("results").hidden = !items.length;
  byId("drop").classList.toggle("used", items.length > 0);
  const parts = [`${done - unusable} of ${items.length} images classified`];
  if (unusable) parts.push(`${unusable} cannot be used`);
  if (failed) parts.push(`${failed} without an answer`);
  const text = parts.join(", ");
  byId("state").textContent = text;
  Object.assign(byId("progress"), { max: items.length || 1, value: done + failed, hidden: done + failed === items.length });
  Object.assign(byId("download"), { disabled: !done, textContent: done < items.length ? `Download CSV (${done})` : "Download CSV" });
  Object.assign(byId("retry"), { hidden: !failed, textContent: `Try again (${failed})` });
  if (items.length && done + failed === items.length) {
    sort(sorting.column, sorting.down);
    byId("live").textContent = `${text}.`;
  }
}

// The bytes that `tumorboard predict` writes, in the order of the list.
function download() {
  const answers = sort(sorting.column, sorting.down).filter((item) => item.answer).map((item) => item.answer);
  const blob = new Blob([answers[0].csv_header, ...answers.map((answer) => answer.csv_line)], { type: "text/csv;charset=utf-8" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "predictions.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function retry() {
  for (const item of items) {
    if (item.state !== "failed") continue;
    item.state = "waiting";
    drawRow(item);
  }
  drawState();
  pump();
}

function clear() {
  items.length = 0;
  body.replaceChildren();
  byId("warnings").hidden = true;
  drawState();
  byId("live").textContent = "All images removed.";
  byId("files").focus();
}

// ---- the beginning

function drawPanel() {
  const list = (names) => (names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`);
  document.title = `${panel.title}: tumorboard`;
  byId("title").textContent = panel.title;
  byId("question").textContent = panel.classes.length <= 4 ? `${list(panel.classes)}?` : `Which of ${panel.classes.length} classes?`;
  const decides = panel.threshold === null ? "" : ` It decides for ${panel.positive} from ${percent(panel.threshold)} on, a threshold chosen on validation images.`;
  byId("panel").textContent = `${panel.models.join(", ")} vote; the ${panel.vote} vote decides (${panel.scale}).${decides}`;
  byId("limits").textContent = `JPEG, PNG, TIFF, DICOM and others, up to ${Math.floor(panel.max_bytes / 1e6)} MB`;
}

function listen() {
  const chosen = (list) => [...list].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  byId("files").addEventListener("change", (event) => add(chosen(event.target.files)));
  document.addEventListener("paste", (event) => event.clipboardData.files.length && add(chosen(event.clipboardData.files)));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add(await filesOf(event.dataTransfer));
  });
  byId("download").addEventListener("click", download);
  byId("retry").addEventListener("click", retry);
  byId("clear").addEventListener("click", clear);
}

panel = await (await fetch("/api/panel")).json();
drawPanel();
drawHead();
listen();
