package mdbweb

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

//go:embed static
var staticFiles embed.FS

// assetHash is a part of the names of assets, so that browsers can keep them until they change.
var assetHash = sync.OnceValue(func() string {
	sum := sha256.New()
	files, err := staticFiles.ReadDir("static")
	if err != nil {
		panic(err)
	}
	for _, file := range files {
		content, err := staticFiles.ReadFile("static/" + file.Name())
		if err != nil {
			panic(err)
		}
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
})

// asset returns the link to a static file.
func (h *Handler) asset(name string) string {
	stem, extension, _ := strings.Cut(name, ".")
	return h.config.prefix + "/static/" + stem + "." + assetHash() + "." + extension
}

var assetTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

func (h *Handler) static(w http.ResponseWriter, r *http.Request) error {
	name := strings.Replace(r.PathValue("file"), "."+assetHash()+".", ".", 1)
	content, err := staticFiles.ReadFile("static/" + name)
	if err != nil || name == r.PathValue("file") {
		return errNotFound
	}
	w.Header().Set("Content-Type", assetTypes[path.Ext(name)])
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	return nil
}
