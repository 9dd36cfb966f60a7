package mdbweb

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

// A page is the templates of a page with those that all pages share.
type page = template.Template

// parsePages returns the pages by name. They are embedded, so an error in one is that of the program.
func parsePages(h *Handler) map[string]*page {
	shared := template.Must(template.New("").Funcs(h.functions()).ParseFS(templateFiles, "templates/_*.html"))
	files, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err)
	}
	pages := make(map[string]*page)
	for _, file := range files {
		if name := strings.TrimSuffix(file.Name(), ".html"); !strings.HasPrefix(name, "_") {
			pages[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, path.Join("templates", file.Name())))
		}
	}
	return pages
}

// A view is what all pages need beside their own data.
type view struct {
	Title, Page string
	Database    string
	Writes      bool
	User        string
	Session     bool // there is one to end
	Form        string
	Here        string
	Now         time.Time
	Data        any
}

func (h *Handler) render(w http.ResponseWriter, r *http.Request, name, title string, status int, data any) error {
	v := view{
		Title: title, Page: name, Database: h.reader.pool.Config().ConnConfig.Database, Writes: h.operator != nil, User: user(r),
		Form: h.formToken(w, r), Here: r.URL.RequestURI(), Now: time.Now().UTC(), Data: data,
	}
	v.Session = h.sessions != nil && v.User != ""
	if v.User == "" {
		v.Database = "" // nothing for strangers
	}
	var b bytes.Buffer // so that an error does not show half a page
	if err := h.pages[name].ExecuteTemplate(&b, "page", v); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client has gone
	return nil
}

func (h *Handler) functions() template.FuncMap {
	return template.FuncMap{
		"to": h.to, "asset": h.asset,
		"number": anyNumber, "count": textOfCount, "age": age, "since": since, "stamp": stamp, "iso": iso, "bytes": byteSize, "percent": percent, "hue": hue, "plural": plural[int],
	}
}
