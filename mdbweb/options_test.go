package mdbweb_test

import (
	"errors"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// TestFaults checks that New rejects what is wrong with its arguments, and reports all of it.
func TestFaults(t *testing.T) {
	t.Parallel()
	store := connect(t, testdb.Shared(t))
	for argument, opt := range map[string]mdbweb.Option{
		"prefix": mdbweb.WithPrefix("mdb"), "host": mdbweb.WithHosts("a.example.com:80"), "token": mdbweb.WithToken("short"), "user": mdbweb.WithUser(nil),
		"redact": mdbweb.Redact(nil), "logger": mdbweb.WithLogger(nil), "queries": mdbweb.MaxQueries(0), "tails": mdbweb.MaxTails(-1),
		"statement timeout": mdbweb.StatementTimeout(time.Microsecond),
	} {
		var wrong *mdb.ArgumentError
		if _, err := mdbweb.New(store, opt); !errors.As(err, &wrong) || len(wrong.Faults) != 1 || wrong.Faults[0].Argument != argument {
			t.Errorf("%s: got %v", argument, err)
		}
	}
	var wrong *mdb.ArgumentError
	if _, err := mdbweb.New(nil, mdbweb.MaxQueries(0), mdbweb.MaxTails(-1)); !errors.As(err, &wrong) || len(wrong.Faults) != 3 {
		t.Errorf("got %v, want three faults", err)
	}
	for _, prefix := range []string{"/a b", "/a?b", "/{a}", "//a", "/../a", `/a"`} {
		if _, err := mdbweb.New(store, mdbweb.WithPrefix(prefix)); !errors.As(err, &wrong) {
			t.Errorf("prefix %q: got %v", prefix, err)
		}
	}
}
