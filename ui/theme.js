// Applies the colours chosen earlier before the page is painted. In: localStorage "theme". Out: data-theme on <html>.
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; the page then follows the system.
}
