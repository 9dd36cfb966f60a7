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
		"Store_WriteEach":             {ExampleStore_WriteEach, "0: at position 0\n1: mdb: stream sensor-2 is at version -1, expected 7\n2: not written behind 1\n3: at position 0\n"},
		"Store_Atomically":            {ExampleStore_Atomically, "<nil> 0\n"},
		"Store_CategoryMessages":      {ExampleStore_CategoryMessages, "map[visit-0:3 visit-1:2]\n"},
		"OnLive":                      {ExampleOnLive, "live: true map[page-home:3]\ndropped: shutdown\n"},
		"OnProgress":                  {ExampleOnProgress, "ship order-1\ndropped: shutdown\nship order-2\ndropped: shutdown\n"},
		"AsConsumerGroup":             {ExampleAsConsumerGroup, "a Lost parcel\n"},
		"WithWorkers":                 {ExampleWithWorkers, "map[ann:[ann+1 ann+2] bob:[bob+1]] shutdown\n"},
		"Store_NotifyStats":           {ExampleStore_NotifyStats, "categories: 1, reads: 1\n"},
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
