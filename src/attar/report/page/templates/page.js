"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const read = (name) => {
    const block = document.getElementById("data-" + name);
    return block ? JSON.parse(block.textContent) : null;
  };

  // Make an element; text is set as text, so a name is never read as markup.
  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") made.textContent = value;
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }
  const named = (name) => make("bdi", { text: name });

  // Sheets are decoded when the first of their pictures is shown.
  const addresses = new Map();
  function address(name) {
    if (!addresses.has(name)) {
      const block = document.getElementById("data-" + name);
      const text = atob(block.textContent), bytes = new Uint8Array(text.length);
      for (let place = 0; place < text.length; place++) bytes[place] = text.charCodeAt(place);
      addresses.set(name, URL.createObjectURL(new Blob([bytes], { type: block.type })));
    }
    return addresses.get(name);
  }
  function tile(sheet, [columns, rows], [column, row], side, label) {
    const made = make("span", { class: side <= 64 ? "tile crisp" : "tile", role: "img", "aria-label": label });
    const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0) + "%";
    made.style.backgroundImage = `url(${address(sheet)})`;
    made.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    made.style.backgroundPosition = `${share(column, columns)} ${share(row, rows)}`;
    return made;
  }
  const percent = (score) => (score ? score[0].toFixed(1) + " %" + (score[1] === null ? "" : " ± " + score[1].toFixed(1)) : "");

  function theme() {
    const button = find("#theme");
    const dark = () => {
      const chosen = document.documentElement.dataset.theme;
      return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    };
    const show = () => {
      button.textContent = dark() ? "Light" : "Dark";
      button.setAttribute("aria-label", button.textContent + " colours");
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = dark() ? "light" : "dark";
      show();
    });
    show();
  }

  // The gallery: classes in pages, found by name; a set of pictures for each source (run) and the real ones.
  function gallery(sources) {
    const root = find("#gallery");
    if (!root || !sources.length) return;
    const perPage = 20;
    const places = sources.map((source) => new Map(source.data.names.map((name, place) => [name, place])));
    // Classes of all runs, those of the first run first; each with the accuracy of the first run that has it.
    const known = new Map();
    for (const { data } of sources) {
      data.names.forEach((name, place) => {
        if (!known.has(name)) known.set(name, { name, title: data.titles[place], score: data.accuracy[place] });
      });
    }
    const classes = [...known.values()];
    const words = classes.map(({ name, title }) => (title + "\n" + name).toLowerCase());
    const search = find("#filter"), order = find("#order"), list = find("#classes"), status = find("#found");
    const back = find("#back"), next = find("#next");
    let page = 0, shown = [];

    function pictures(source, place, offset, count, kind, title) {
      const { columns, rows, side, names } = source.data;
      const sheet = Math.floor(place / rows);
      const size = [columns, Math.min(rows, names.length - sheet * rows)];
      const made = make("div", { class: "tiles" });
      made.style.setProperty("--count", Math.max(source.data.own, count));
      for (let number = 0; number < count; number++) {
        made.append(tile(`${source.name}-${sheet}`, size, [offset + number, place % rows], side, `${title}, ${kind} ${number + 1}`));
      }
      return made;
    }
    function card(place) {
      const { name, title } = classes[place];
      const heading = make("div", {}, make("h3", {}, named(title)));
      const sets = make("div", { class: "sets" });
      sources.forEach((source, number) => {
        const own = places[number].get(name);
        if (own === undefined) {
          sets.append(make("div", { class: "set" }, make("span", { class: "soft", text: `${source.label}: has no such class` })));
          return;
        }
        const score = percent(source.data.accuracy[own]);
        if (score && sources.length === 1) heading.append(make("span", { class: "score", text: score }));
        const label = make("span", { class: "soft" }, source.label + (score && sources.length > 1 ? `, ${score}` : ""));
        sets.append(make("div", { class: "set" }, label, pictures(source, own, 0, source.data.have[own], source.kind, title)));
      });
      const shows = (source, number) => source.data.real && places[number].has(name);
      const most = Math.max(0, ...sources.map((source, number) => (shows(source, number) ? source.data.own : 0)));
      const real = sources.findIndex((source, number) => shows(source, number) && source.data.own === most);
      if (real >= 0) {
        const { data } = sources[real], own = places[real].get(name);
        if (own !== undefined && data.haveReal[own]) {
          const label = make("span", { class: "soft", text: `real images, ${data.real}` });
          sets.append(make("div", { class: "set" }, label, pictures(sources[real], own, data.own, data.haveReal[own], "real image", title)));
        }
      }
      return make("li", {}, heading, sets);
    }
    function draw() {
      const last = Math.max(0, Math.ceil(shown.length / perPage) - 1);
      page = Math.min(page, last);
      list.replaceChildren(...shown.slice(page * perPage, (page + 1) * perPage).map(card));
      const count = shown.length === classes.length ? `${shown.length} classes` : `${shown.length} of ${classes.length} classes`;
      status.textContent = count + (last ? `, page ${page + 1} of ${last + 1}` : "");
      const held = document.activeElement;
      back.disabled = page === 0;
      next.disabled = page === last;
      if (held === next && next.disabled) back.focus(); // a disabled button would lose the keyboard's place
      if (held === back && back.disabled) next.focus();
      back.hidden = next.hidden = last === 0;
    }
    function choose() {
      const wanted = search.value.trim().toLowerCase();
      shown = [...words.keys()].filter((place) => words[place].includes(wanted));
      const score = (place) => (classes[place].score ? classes[place].score[0] : NaN);
      if (order.value === "name") shown.sort((one, other) => classes[one].title.localeCompare(classes[other].title));
      if (order.value === "best" || order.value === "worst") {
        const sign = order.value === "best" ? -1 : 1;
        shown = shown.filter((place) => classes[place].score).sort((one, other) => sign * (score(one) - score(other)));
      }
      page = 0;
      draw();
    }
    search.addEventListener("input", choose);
    order.addEventListener("change", choose);
    back.addEventListener("click", () => { page--; draw(); });
    next.addEventListener("click", () => { page++; draw(); });
    choose();
  }

  // The film: pictures after increasing numbers of iterations, one row per picture, or per run for one class.
  function film(films) {
    const root = find("#film");
    if (!root || !films.length) return;
    const slider = find("#step"), output = find("#step-output"), stage = find("#stage"), strip = find("#strip");
    const choice = find("#film-class");
    const steps = [...new Set(films.flatMap((one) => one.data.steps))].sort((one, other) => one - other);
    const titles = new Map();
    for (const { data } of films) data.names.forEach((name, row) => titles.has(name) || titles.set(name, data.titles[row]));
    const names = [...titles.keys()];
    slider.max = steps.length - 1;
    slider.value = steps.length - 1;
    const said = (step) => `after ${step.toLocaleString("en")} iterations`;
    const picture = (one, row, column) => tile(
      `${one.name}-0`, [one.data.steps.length, one.data.names.length], [column, row], one.data.side,
      `${one.data.titles[row]}, ${films.length > 1 ? one.label + ", " : ""}${said(one.data.steps[column])}`,
    );
    // The last step that a run has reached by this step; its first one before that.
    const reached = (one, step) => Math.max(0, one.data.steps.findLastIndex((own) => own <= step));

    function drawStrip() {
      const header = make("tr", {}, make("td"));
      steps.forEach((step) => header.append(make("th", { scope: "col", class: "number", text: step.toLocaleString("en") })));
      const rows = films.length > 1
        ? films.map((one) => [one, one.label, one.data.names.indexOf(names[choice.value])])
        : names.map((name, row) => [films[0], titles.get(name), row]);
      const body = rows.filter(([, , row]) => row >= 0).map(([one, label, row]) => {
        const cells = steps.map((step) => {
          const column = one.data.steps.indexOf(step);
          return column < 0 ? make("td") : make("td", {}, picture(one, row, column));
        });
        return make("tr", {}, make("th", { scope: "row" }, named(label)), ...cells);
      });
      strip.replaceChildren(make("thead", {}, header), make("tbody", {}, ...body));
      mark();
    }
    function mark() {
      for (const row of strip.rows) {
        const cells = [...row.cells].slice(1), own = cells.map((cell) => cell.childNodes.length > 0);
        const shown = own.lastIndexOf(true, Number(slider.value));  // a run that has ended keeps its last pictures
        cells.forEach((cell, place) => cell.classList.toggle("now", place === (shown < 0 ? own.indexOf(true) : shown)));
      }
    }
    function drawStage() {
      const step = steps[slider.value];
      output.textContent = step.toLocaleString("en");
      slider.setAttribute("aria-valuetext", said(step));
      stage.replaceChildren(...films.map((one) => {
        const column = reached(one, step);
        const pictures = one.data.titles.map((title, row) => make(
          "figure", {}, picture(one, row, column), make("figcaption", {}, named(title)),
        ));
        const made = make("div", {}, make("div", { class: "stage" }, ...pictures));
        if (films.length > 1) made.prepend(make("h3", { text: `${one.label}, ${said(one.data.steps[column])}` }));
        return made;
      }));
      mark();
    }
    if (choice) {
      names.forEach((name, place) => choice.append(make("option", { value: place, text: titles.get(name) })));
      choice.addEventListener("change", drawStrip);
    }
    slider.addEventListener("input", drawStage);
    drawStrip();
    drawStage();
  }

  // Soft labels: one image, view by view.
  function labels(data) {
    const root = find("#labels");
    if (!root || !data) return;
    const choice = find("#label-image"), slider = find("#label-view"), output = find("#view-output");
    const whole = find("#whole"), seen = find("#seen"), shares = find("#shares"), words = find("#view-words");
    const size = [data.columns, data.images.length];
    data.images.forEach((image, place) => choice.append(make("option", { value: place, text: data.titles[image.class] })));
    slider.max = data.columns - 1;

    // How far crops reach beyond the image, into black padding, as a share of its side.
    const boxes = data.images.flatMap((image) => image.views.map((view) => view.box).filter(Boolean));
    const margin = boxes.reduce((most, [top, left, height, width]) => Math.max(most, -top, -left, top + height - 1, left + width - 1), 0);
    const scale = 200 / (1 + 2 * margin);
    find("#padding").hidden = margin === 0;

    function padded(image) {
      Object.assign(image.style, { position: "absolute", left: `${margin * scale}px`, top: `${margin * scale}px`, width: `${scale}px`, height: `${scale}px` });
      return image;
    }
    function frame(box) {
      const space = "http://www.w3.org/2000/svg";
      const drawn = document.createElementNS(space, "svg");
      drawn.setAttribute("viewBox", "0 0 200 200");
      drawn.setAttribute("aria-hidden", "true");
      for (const kind of box ? ["shade", "edge"] : []) {
        const [top, left, height, width] = [box[0] + margin, box[1] + margin, box[2], box[3]].map((value) => scale * value);
        const rectangle = document.createElementNS(space, "rect");
        for (const [key, value] of Object.entries({ x: left, y: top, width, height, class: kind })) rectangle.setAttribute(key, value);
        drawn.append(rectangle);
      }
      return drawn;
    }
    function draw() {
      const row = Number(choice.value), image = data.images[row], number = Number(slider.value);
      const view = image.views[number - 1], title = data.titles[image.class];
      output.textContent = `${number} of ${data.columns - 1}`;
      whole.replaceChildren(padded(tile("labels-0", size, [0, row], data.side, `${title}, the stored image`)), frame(view.box));
      seen.replaceChildren(tile("labels-0", size, [number, row], data.side, `${title}, view ${number}`));
      const said = [...view.how];
      if (view.mix) said.push(`${view.mix.kind} with an image of ${data.titles[view.mix.class]} (${Math.round(100 * view.mix.share)} %)`);
      words.textContent = said.length ? `Also: ${said.join(", ")}.` : "";
      shares.replaceChildren(...view.top.map(([label, share]) => {
        const bar = make("i", label === image.class ? { class: "own" } : {});
        bar.style.width = `${100 * share}%`;
        const text = share >= 0.001 || share === 0 ? (100 * share).toFixed(1) : "< 0.1";
        return make(
          "li", {}, named(data.titles[label]), make("span", { class: "track", "aria-hidden": "true" }, bar),
          make("span", { class: "number", text: `${text} %` }),
        );
      }));
    }
    choice.addEventListener("change", draw);
    slider.addEventListener("input", draw);
    draw();
  }

  const runs = read("runs");
  const sources = (what) => runs.map((run) => ({ ...run, name: run.prefix + what, data: read(run.prefix + what) })).filter((run) => run.data);
  theme();
  gallery(sources("gallery"));
  film(sources("film"));
  labels(read("labels"));
  document.documentElement.dataset.ready = "yes";
})();
