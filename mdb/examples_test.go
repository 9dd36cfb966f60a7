package mdb_test

import (
	"io"
	"os"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestExamples runs the examples of the documentation, which are not run by go test
// themselves because they need a server.
func TestExamples(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.New(t))
	for name, example := range map[string]struct {
		run  func()
		want string
	}{
		"Example":                     {Example, "written to position 0 of account-123\n0: Deposited {\"amount\": 10}\n"},
		"New":                         {ExampleNew, "problems: <nil>\n"},
		"Store_WriteMessage_conflict": {ExampleStore_WriteMessage_conflict, "reserved: true\ntoo late: mdb: stream seat-1a is at version 0, expected -1\n"},
		"Idempotent":                  {ExampleIdempotent, "position 0, found there: false\nposition 0, found there: true\n"},
		"Store_Atomically":            {ExampleStore_Atomically, "<nil> 0\n"},
		"Store_CategoryMessages":      {ExampleStore_CategoryMessages, "map[visit-0:3 visit-1:2]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := output(t, example.run); got != example.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, example.want)
			}
		})
	}
}

// output returns what f prints. No other test runs meanwhile, as this one is not
// parallel.
func output(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	func() {
		defer func() { os.Stdout = stdout }()
		f()
	}()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	printed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(printed)
}
