"use strict";
/* Uploads in pieces: they show how far they are, and go on where they broke off. */
(() => {
  const PIECE = 8 * 1024 * 1024;
  const form = document.getElementById("upload");
  if (!form) return;
  const input = form.querySelector("input[type=file]");
  const drop = form.querySelector(".drop");
  const sending = form.querySelector(".sending");
  const bar = sending.querySelector("progress");
  const said = sending.querySelector("[role=status]");
  const problem = form.querySelector(".problem");
  const headers = { "X-CSRF-Token": form.dataset.csrf };

  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) {
      input.files = event.dataTransfer.files;
      send(input.files[0]);
    }
  });
  form.addEventListener("submit", (event) => {
    if (!input.files.length) return;
    event.preventDefault();
    send(input.files[0]);
  });

  const key = (file) => `upload ${file.name} ${file.size} ${file.lastModified}`;

  async function asked(path, options) {
    const answer = await fetch(path, { ...options, headers: { ...headers, ...(options.headers || {}) } });
    const body = await answer.json();
    if (!answer.ok) {
      const error = new Error(body.error.message);
      error.details = body.error.details;
      error.status = answer.status;
      throw error;
    }
    return body;
  }

  async function begun(file) {
    const known = sessionStorage.getItem(key(file));
    if (known) {
      try { return await asked(`/api/files/${known}`, {}); } catch { sessionStorage.removeItem(key(file)); }
    }
    return asked("/api/files", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: file.name, size: file.size }),
    });
  }

  async function pieces(file) {
    let state = await begun(file);
    sessionStorage.setItem(key(file), state.id);
    let failures = 0;
    while (!state.complete) {
      const end = Math.min(state.offset + PIECE, file.size);
      try {
        state = await asked(`/api/files/${state.id}?offset=${state.offset}`, {
          method: "PUT", body: file.slice(state.offset, end),
        });
        failures = 0;
      } catch (error) {
        if (error.status === 409) { state = await asked(`/api/files/${state.id}`, {}); continue; }
        failures += 1;
        if (error.status || failures > 5) throw error;
        said.textContent = "The connection broke off; trying again.";
        await new Promise((done) => setTimeout(done, 1000 * failures));
        continue;
      }
      bar.value = Math.floor((100 * state.offset) / file.size);
      said.textContent = `${bar.value} % are here`;
    }
    sessionStorage.removeItem(key(file));
    location.assign(`/files/${state.id}`);
  }

  async function send(file) {
    problem.hidden = true;
    sending.hidden = false;
    form.querySelector("button").disabled = true;
    try {
      if (file.size === 0) throw new Error("The file is empty. To fix: choose another one.");
      await pieces(file);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      sending.hidden = true;
      form.querySelector("button").disabled = false;
    }
  }
})();
