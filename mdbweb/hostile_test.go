package mdbweb_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/hostile"
	"github.com/messagedb-go/messagedb/mdb"
)

// unescaped are what a page must not contain: parts of the texts in which a tag, an attribute or a link begins.
var unescaped = []string{
	"<script>", "<img", "<xss", "<iframe", "<base", "<meta http", "<form action=\"https", "<style", "<link rel=stylesheet href=https", "<svg onload", "<!--", "<![CDATA", `href="javascript:`, `" onmouseover="`, `" onerror="`,
}

// TestHostile checks that names, types, data, metadata and their keys, and parameters are escaped wherever they are shown.
func TestHostile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var paths []string
	for _, text := range hostile.Texts() {
		stream := mdb.StreamName(strings.ReplaceAll(text, "-", "_") + "-" + text)
		cause := write(t, s.store, stream, event(text, map[string]any{text: map[string]any{text: []string{text}}}, map[string]any{text: text, "correlationStreamName": stream}))
		effect := write(t, s.store, stream, event(text, text2JSON(t, text), map[string]any{"causationMessageStreamName": stream, "causationMessagePosition": 0, "correlationStreamName": stream}))
		q := url.QueryEscape
		paths = append(paths, "/message/"+cause.ID.String(), "/message/"+effect.ID.String(), "/messages?stream="+q(string(stream)), "/messages?category="+q(string(stream.Category())), "/messages?type="+q(text),
			"/streams?q="+q(string(stream)), "/?q="+q(text), "/types?category="+q(string(stream.Category())), "/live?stream="+q(string(stream)), "/streams?q="+q(text), "/messages?stream="+q(text)+"&type="+q(text))
	}
	paths = append(paths, "/", "/messages", "/messages?order=first", "/streams", "/streams?order=name", "/types")
	for _, path := range paths {
		page := s.page(path)
		for _, text := range unescaped {
			if i := strings.Index(page, text); i >= 0 {
				t.Errorf("%s contains %.80s", path, page[i:])
			}
		}
		if strings.Count(page, "<script") != 1 || strings.Contains(page, "ZgotmplZ") { // what html/template puts in the place of a hostile link
			t.Errorf("%s has %d scripts", path, strings.Count(page, "<script"))
		}
	}
	for _, path := range []string{"/find?q=", "/messages?order=", "/messages?before=", "/consumers/show?name=", "/throughput?window=", "/absent/"} {
		for _, text := range hostile.Texts() {
			r := s.get(path + url.QueryEscape(text))
			for _, part := range unescaped {
				if strings.Contains(r.Body, part) {
					t.Errorf("%s%s contains %s", path, text, part)
				}
			}
			if location := r.Header.Get("Location"); location != "" && !strings.HasPrefix(location, "/") || strings.HasPrefix(location, "//") {
				t.Errorf("%s%s leads to %s", path, text, location)
			}
		}
	}
}

func text2JSON(t *testing.T, text string) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestHostileEvents checks that a message cannot forge an event of a live tail.
func TestHostileEvents(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := s.follow("/live/events?after=0", "")
	e.next(t, "ready")
	for i, text := range hostile.Texts() {
		if i%10 == 0 { // as many as are shown in a period
			write(t, s.store, "marker-1", event("Marker", nil, nil))
			until(t, "the marker", func() bool { return e.next(t, "message")["type"] == "Marker" })
		}
		stream := mdb.StreamName("s-" + text)
		write(t, s.store, stream, event(text, text2JSON(t, text), nil))
		got := e.next(t, "message")
		if got["type"] != text || got["stream"] != string(stream) || !strings.HasPrefix(got["link"].(string), "/message/") {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// TestInvalidText checks that parameters that no text of the database can contain are rejected before it is asked.
func TestInvalidText(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, text := range []string{"%00", "a%00b", "%ff", "%c3%28", "%ed%a0%80"} {
		for _, path := range []string{"/?q=", "/streams?q=", "/messages?stream=", "/messages?type=", "/find?q=", "/types?category=", "/consumers/show?name=", "/live/events?stream="} {
			if r := s.get(path + text); r.StatusCode != 400 {
				t.Errorf("%s%s: status %d, want 400", path, text, r.StatusCode)
			}
		}
	}
}
