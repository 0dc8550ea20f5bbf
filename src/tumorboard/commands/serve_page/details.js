// The view of one image: the crop, the votes, the warnings, the heat maps.

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Never "100.0 %" or "0.0 %": no panel is certain.
export function percent(share) {
  if (share > 0.9995 && share <= 1) return "> 99.9\u00a0%";
  if (share < 0.0005) return "< 0.1\u00a0%";
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

export function className(panel, name) {
  const made = element("span", { className: "class", textContent: name || "undecided" });
  if (name) made.style.setProperty("--color", color(panel, name));
  return made;
}

function color(panel, name) {
  return `var(--class-${panel.classes.indexOf(name) % 6})`;
}

export function fillDetails(cell, item, panel, askMaps) {
  const { row, members, crop } = item.answer;
  const figure = element(
    "figure", {},
    element("img", { src: crop, alt: `The crop of ${row.path}` }),
    element("figcaption", { textContent: `What the panel sees: ${panel.side} × ${panel.side} pixels` }),
  );
  const verdict = element("p", { className: "verdict" }, className(panel, row.decided), " ");
  verdict.append(element("small", { textContent: row.decided ? percent(row.probability) : `below ${percent(panel.abstain)}` }));
  const text = element("div", {}, element("p", { className: "notice", textContent: item.answer.notice }), verdict);
  text.append(element("p", { className: "soft", textContent: explain(row, panel) }));
  const warnings = warningsOf(row);
  if (warnings.length) {
    const box = element("div", { className: "cautions" });
    box.append(...warnings.map((sentence) => element("p", { textContent: sentence })));
    text.append(box);
  }
  text.append(voteTable(row, members, panel));
  cell.replaceChildren(element("div", { className: "answer" }, figure, text, evidence(item, panel, askMaps)));
}

function explain(row, panel) {
  const sentences = [`${capital(panel.scale)}, by the ${panel.vote} vote. ${row.agreeing} models vote for ${row.decided ? "this class" : "the most probable class"}.`];
  if (panel.threshold !== null) {
    const rule = `the panel decides for ${panel.positive} from ${percent(panel.threshold)} on`;
    const likely = mostProbable(row.probabilities);
    if (row.decided && row.decided !== likely) sentences.push(`${likely} is more probable, but ${rule}.`);
    else sentences.push(`${capital(rule)}.`);
  }
  return sentences.join(" ");
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function warningsOf(row) {
  const sentences = [];
  if (row.unlike !== null && row.unlike >= 1) {
    sentences.push(`This image is unlike the training images (${row.unlike.toFixed(2)}; from 1 on it counts as unlike): do not trust its class.`);
  }
  if (row.known === "train") sentences.push("The panel was trained on this very file, so that its vote on it proves nothing.");
  else if (row.known) sentences.push(`This very file is in the panel's own data (${row.known}).`);
  return sentences;
}

function voteTable(row, members, panel) {
  const head = element("tr");
  const titles = ["model", ...(panel.weights ? ["weight"] : []), "votes for", ...panel.classes];
  head.append(...titles.map((title) => element("th", { scope: "col", textContent: title, className: kinds[title] ?? "" })));
  const body = element("tbody");
  for (const [model, shares] of Object.entries(members)) {
    const weight = panel.weights ? [`${Math.round(100 * panel.weights[model])}\u00a0%`] : [];
    body.append(voteRow(model, weight, shares, mostProbable(shares), panel));
  }
  body.append(voteRow(`${panel.vote} vote`, panel.weights ? [""] : [], row.probabilities, row.decided, panel));
  return element("div", { className: "wide" }, element("table", { className: "members" }, element("thead", {}, head), body));
}

const kinds = { weight: "n", "votes for": "votes" };

function mostProbable(shares) {
  return Object.entries(shares).reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}

function voteRow(title, weight, shares, choice, panel) {
  const made = element("tr", {}, element("td", { textContent: title }));
  made.append(...weight.map((text) => element("td", { className: "n", textContent: text })));
  made.append(element("td", { className: "votes" }, className(panel, choice)));
  for (const name of panel.classes) {
    const bar = element("b");
    bar.style.width = `${100 * shares[name]}%`;
    bar.style.setProperty("--color", color(panel, name));
    const track = element("i", {}, bar);
    track.setAttribute("aria-hidden", "true");
    const chance = element("div", { className: name === choice ? "chance chosen" : "chance" }, track, percent(shares[name]));
    made.append(element("td", {}, chance));
  }
  return made;
}

// Where the models look: on demand, since it takes a pass backward per model.
function evidence(item, panel, askMaps) {
  const choice = element("select", {});
  choice.setAttribute("aria-label", "Class whose evidence the heat maps show");
  choice.append(...panel.classes.map((name) => element("option", { value: name, textContent: name })));
  choice.value = item.answer.row.decided || mostProbable(item.answer.row.probabilities);
  const button = element("button", { type: "button", textContent: "Show heat maps" });
  const maps = element("div");
  maps.setAttribute("aria-live", "polite");
  let asked = 0;
  const show = async () => {
    const number = (asked += 1);
    button.disabled = true;
    button.textContent = "Drawing …";
    const shown = await drawMaps(item, choice.value, askMaps);
    if (number !== asked) return;
    maps.replaceChildren(...shown);
    button.hidden = true;
  };
  button.addEventListener("click", show);
  choice.addEventListener("change", () => button.hidden && show());
  return element("div", { className: "evidence" }, element("label", { className: "soft" }, "Evidence for ", choice), " ", button, maps);
}

async function drawMaps(item, label, askMaps) {
  let answer;
  try {
    answer = await askMaps(item, label);
  } catch (error) {
    return [element("p", { className: "alarm", textContent: error.message })];
  }
  if (answer.problem) return [element("p", { className: "soft", textContent: answer.problem })];
  const figures = Object.entries({ "the vote": answer.vote, ...answer.members }).filter(([, url]) => url);
  const without = Object.entries(answer.members).filter(([, url]) => !url).map(([name]) => name);
  const grid = element("div", { className: "maps" });
  for (const [name, url] of figures) {
    const image = element("img", { src: url, alt: `Heat map of ${name} for ${label}` });
    grid.append(element("figure", {}, image, element("figcaption", { textContent: name })));
  }
  const note = `The warmer a place, the more evidence for ${label} (Grad-CAM). A map shows where a model looks, not that it is right.`;
  const missing = without.length ? ` Without a map: ${without.join(", ")}.` : "";
  return [grid, element("p", { className: "soft", textContent: note + missing })];
}
