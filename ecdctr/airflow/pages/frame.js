// Airflow shows these pages in a sandboxed frame of its own origin.
// Its light or dark is Airflow's own (kept in localStorage), not the operating system's.
const system = matchMedia("(prefers-color-scheme: dark)");

function follow() {
  const chosen = localStorage.getItem("theme");
  const dark = chosen === "dark" || (chosen !== "light" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

addEventListener("storage", follow); // Airflow's switch was pressed
system.addEventListener("change", follow);
follow();

// The sandbox does not let the frame change the window's page; a link in the outer page may.
addEventListener("click", (event) => {
  const link = event.target.closest("a[target=_top]");
  if (!link || window.parent === window) return;
  event.preventDefault();
  const outer = window.parent.document.createElement("a");
  outer.href = link.href;
  window.parent.document.body.append(outer);
  outer.click();
  outer.remove();
});
