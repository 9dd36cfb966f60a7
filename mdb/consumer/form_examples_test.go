package consumer_test

import (
	"io"
	"os"
	"testing"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestFormExamples checks the output of the examples of forms. They need a server, so go test
// does not run them itself.
func TestFormExamples(t *testing.T) {
	store := withConsumers.Store(t)
	// With it, Message DB's own functions work with any search path.
	if _, err := schema.PinSearchPath(t.Context(), store.Pool()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DATABASE_URL", store.Pool().Config().ConnString())
	for name, example := range map[string]struct {
		run  func()
		want string
	}{
		"EachTx":     {ExampleEachTx, "version: 0 <nil>\n"},
		"EachQueued": {ExampleEachQueued, "balance: 42 <nil>\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := printed(t, example.run); got != example.want {
				t.Errorf("got output %q, want %q", got, example.want)
			}
		})
	}
}

// printed returns what f prints.
func printed(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = stdout }()
	f()
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
