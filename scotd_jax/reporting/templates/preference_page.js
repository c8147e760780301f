"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const sides = ["first", "second"];
  const keys = { 1: "first", 2: "second", 0: "tie" };
  const element = (id) => document.getElementById(id);
  // choices: pair id -> "first", "second" or "tie"; edits: pair id -> side -> text; position: index of the pair in view.
  let state = null;

  // ---- progress in the browser, by page and annotator

  function storageKey(annotator) {
    return `scotd_jax preferences ${page.digest} ${annotator}`;
  }

  function load(annotator) {
    const empty = { annotator, position: 0, choices: {}, edits: {} };
    try {
      return JSON.parse(localStorage.getItem(storageKey(annotator))) || empty;
    } catch {
      return empty;
    }
  }

  function store() {
    try {
      localStorage.setItem(storageKey(state.annotator), JSON.stringify(state));
    } catch {
      element("storage-warning").hidden = false; // storage is full or switched off
    }
  }

  // ---- views

  function view(name) {
    for (const id of ["start", "pair", "finish"]) element(id).hidden = id !== name;
    window.scrollTo(0, 0);
  }

  function decided(pair) {
    return Object.hasOwn(state.choices, pair.id);
  }

  function missing() {
    return page.pairs.map((pair, index) => index).filter((index) => !decided(page.pairs[index]));
  }

  function show(position) {
    if (position >= page.pairs.length) return finish();
    state.position = Math.max(0, position);
    store();
    const pair = page.pairs[state.position];
    const done = page.pairs.length - missing().length;
    element("position").textContent = `Pair ${state.position + 1} of ${page.pairs.length}, ${done} decided`;
    element("progress").value = done;
    element("context").textContent = pair.context || "";
    element("context").hidden = !pair.context;
    element("question-text").textContent = pair.question;
    for (const side of sides) showSide(side, pair);
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.setAttribute("aria-pressed", String(state.choices[pair.id] === button.dataset.choice));
    }
    element("previous").disabled = state.position === 0;
    view("pair");
    element("question").focus({ preventScroll: true });
  }

  function showSide(side, pair) {
    element(`${side}-rationale`).textContent = pair[side].rationale;
    element(`${side}-answer`).textContent = pair[side].answer === null ? "none" : pair[side].answer;
    element(side).classList.toggle("preferred", state.choices[pair.id] === side);
    if (page.editable) showEdit(side, pair, false);
  }

  function finish() {
    const open = missing();
    element("finish-title").textContent = open.length
      ? `${page.pairs.length - open.length} of ${page.pairs.length} pairs decided`
      : `All ${page.pairs.length} pairs are decided`;
    element("missing").hidden = !open.length;
    element("missing-list").replaceChildren(
      ...open.map((index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "link";
        button.textContent = String(index + 1);
        button.addEventListener("click", () => show(index));
        return button;
      }),
    );
    element("export").value = exported();
    element("copied").textContent = "";
    view("finish");
    element("finish-title").focus({ preventScroll: true });
  }

  function choose(choice) {
    state.choices[page.pairs[state.position].id] = choice;
    show(state.position + 1);
  }

  // ---- edited reasoning, on pages of training questions

  function showEdit(side, pair, editing) {
    const edited = (state.edits[pair.id] || {})[side];
    element(`${side}-rationale`).textContent = edited === undefined ? pair[side].rationale : edited;
    element(`${side}-rationale`).hidden = editing;
    element(`${side}-edit`).hidden = !editing;
    element(`${side}-edit`).value = edited === undefined ? pair[side].rationale : edited;
    element(`${side}-edit-button`).textContent = editing ? "Done" : "Edit";
    element(`${side}-edited`).hidden = edited === undefined;
  }

  function toggleEdit(side) {
    const editing = element(`${side}-edit`).hidden;
    showEdit(side, page.pairs[state.position], editing);
    if (editing) element(`${side}-edit`).focus();
  }

  function edit(side) {
    const pair = page.pairs[state.position];
    const text = element(`${side}-edit`).value.trim();
    const edits = { ...state.edits[pair.id], [side]: text };
    if (text === "" || text === pair[side].rationale) delete edits[side]; // an empty edit restores the original
    state.edits[pair.id] = edits;
    element(`${side}-edited`).hidden = !(side in edits);
    store();
  }

  // ---- saving

  function exported() {
    const choices = {};
    const edits = {};
    for (const pair of page.pairs) {
      if (!decided(pair)) continue;
      const choice = state.choices[pair.id];
      choices[pair.id] = choice;
      const text = (state.edits[pair.id] || {})[choice];
      if (text !== undefined) edits[pair.id] = text;
    }
    return JSON.stringify({ page: page.digest, annotator: state.annotator, choices, edits }, null, 2) + "\n";
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
    link.download = `${page.digest}-${state.annotator.replace(/[^\p{L}\p{N}]+/gu, "_")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  async function copy() {
    const box = element("export");
    try {
      await navigator.clipboard.writeText(box.value);
      element("copied").textContent = "copied";
    } catch {
      box.focus(); // without access to the clipboard the user copies the selected text
      box.select();
      element("copied").textContent = "selected: copy it with Ctrl+C";
    }
  }

  // ---- events

  element("start-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const annotator = element("annotator").value.trim().replace(/\s+/g, " ");
    if (!annotator) return;
    state = load(annotator);
    show(state.position);
  });
  element("previous").addEventListener("click", () => show(state.position - 1));
  element("next").addEventListener("click", () => show(state.position + 1));
  element("save").addEventListener("click", finish);
  element("back").addEventListener("click", () => show(state.position));
  element("download").addEventListener("click", download);
  element("copy").addEventListener("click", copy);
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => choose(button.dataset.choice));
  }
  if (page.editable) {
    for (const side of sides) {
      element(`${side}-edit-button`).addEventListener("click", () => toggleEdit(side));
      element(`${side}-edit`).addEventListener("input", () => edit(side));
    }
  }
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
    if (typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat || element("pair").hidden) return;
    if (event.key in keys) choose(keys[event.key]);
    else if (event.key === "ArrowLeft") show(state.position - 1);
    else if (event.key === "ArrowRight") show(state.position + 1);
    else return;
    event.preventDefault();
  });
})();
