package main_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestPLProxySummary checks that a proxy says that the views are on the shards.
func TestPLProxySummary(t *testing.T) {
	t.Parallel()
	p := testdb.NewProxy(t, 1, nil)
	env := environment("DATABASE_URL=" + p.URL)
	for command, view := range map[string]string{"streams": "stream_summary", "categories": "category_type_summary", "types -categories": "type_category_summary"} {
		out, status := (&shell{env: env}).run(t, "mdb "+command)
		if want := "mdb: " + view + ": only the shards of PL/Proxy have this view: run the command on each of them\n"; status != 1 || out != want {
			t.Errorf("%s: exit status %d, printed %q, want 1 and %q", command, status, out, want)
		}
	}
}
