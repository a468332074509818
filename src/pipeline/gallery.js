
(() => {
  "use strict";
  const root = document.documentElement;
  const store = {
    // Some browsers refuse storage to pages opened from disk; the choice then lasts as long as the page.
    get(key) { try { return localStorage.getItem("concept-worker." + key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem("concept-worker." + key, value); } catch { /* see above */ } },
  };
  const choices = {
    theme: { fallback: "auto", apply: (v) => v === "auto" ? delete root.dataset.theme : (root.dataset.theme = v) },
    view: { fallback: "slider", apply: (v) => { root.dataset.view = v; } },
  };
  const known = { theme: ["auto", "light", "dark"], view: ["slider", "sides", "result"] };
  const chosen = (name) => {
    const value = store.get(name);
    return known[name].includes(value) ? value : choices[name].fallback;
  };
  root.classList.add("js");
  for (const name of Object.keys(choices)) choices[name].apply(chosen(name));

  const slide = (input) => {
    const share = Number(input.value);
    input.closest(".compare").style.setProperty("--p", share + "%");
    input.setAttribute("aria-valuetext", `${Math.round(100 - share)} % variation`);
  };

  let toastTimer;
  const toast = (text) => {
    const box = document.querySelector(".toast");
    // A modal dialog hides everything outside itself, so the message has to follow it in.
    (document.querySelector("dialog[open]") || document.body).append(box);
    box.textContent = text;
    box.classList.add("on");
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => box.classList.remove("on"), 1600);
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      (document.querySelector("dialog[open]") || document.body).append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) { toast(`Could not copy; the colour is ${text}`); return; }
    }
    toast(`Copied ${text}`);
  };

  let current = null;
  const show = (card) => {
    const compare = card.querySelector(".compare");
    if (!compare) return;
    current = card;
    const viewer = document.getElementById("viewer");
    viewer.querySelector("h2").textContent = card.querySelector("h3").textContent;
    const clone = compare.cloneNode(true);
    const slider = clone.querySelector("input");
    slider.value = compare.querySelector("input").value;
    viewer.querySelector(".viewer-stage").replaceChildren(clone);
    slide(slider);
    const swatches = card.querySelector(".swatches");
    viewer.querySelector(".viewer-foot").replaceChildren(...(swatches ? [swatches.cloneNode(true)] : []));
    if (!viewer.open) viewer.showModal();
    slider.focus({ preventScroll: true });
  };
  const step = (by) => {
    const cards = [...document.querySelectorAll(".card:not([hidden])")].filter((c) => c.querySelector(".compare"));
    const at = cards.indexOf(current);
    if (at >= 0) show(cards[(at + by + cards.length) % cards.length]);
  };
  const filter = (text) => {
    const wanted = text.trim().toLowerCase();
    let left = 0;
    for (const card of document.querySelectorAll(".card")) {
      card.hidden = wanted !== "" && !card.querySelector("h3").textContent.toLowerCase().includes(wanted);
      if (!card.hidden) left += 1;
    }
    document.getElementById("no-match").hidden = left > 0;
  };

  document.addEventListener("input", (event) => {
    const input = event.target;
    if (input.type === "range") slide(input);
    else if (input.type === "search") filter(input.value);
  });
  document.addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (name in choices) { choices[name].apply(value); store.set(name, value); }
  });
  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest(selector);
    const viewer = document.getElementById("viewer");
    if (at("[data-hex]")) copy(at("[data-hex]").dataset.hex);
    else if (at(".enlarge")) show(at(".card"));
    else if (at("[data-step]")) step(Number(at("[data-step]").dataset.step));
    else if (at("[data-close]") || event.target === viewer) viewer.close();
  });
  // Paper has no way to open a closed section.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) details.open = true;
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const name of Object.keys(choices)) {
      const input = document.querySelector(`input[name="${name}"][value="${chosen(name)}"]`);
      if (input) input.checked = true;
    }
    // A reloaded page may restore slider positions without an event.
    for (const input of document.querySelectorAll(".compare input")) slide(input);
  });
})();
