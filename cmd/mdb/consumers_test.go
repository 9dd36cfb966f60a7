package main_test

import (
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestCheckConsumers checks what mdb check prints about other versions of the consumers' schema.
func TestCheckConsumers(t *testing.T) {
	t.Parallel()
	url := testdb.Consumers(t)
	conn := testdb.Session(t, url)
	sh := newShell(t, "")
	for version, want := range map[string]string{
		"0": "the schema of consumers has version 0, and this mdb needs version 1\n  remedy: run \"mdb install -consumers\" as its owner\n",
		"7": "the schema of consumers is installed, version 7\n",
	} {
		if _, err := conn.Exec(t.Context(), "CREATE OR REPLACE FUNCTION message_store_consumers.version() RETURNS integer LANGUAGE sql AS 'SELECT "+version+"'"); err != nil {
			t.Fatal(err)
		}
		if out, status := sh.run(t, "mdb check -d '"+url+"'"); status != 0 || !strings.HasSuffix(out, "correctly\n"+want) {
			t.Errorf("got the status %d and\n%s\nwant\n%s", status, out, want)
		}
	}
}
