package archive_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

// write writes a message without data.
func write(t testing.TB, s *mdb.Store, stream mdb.StreamName, typ string) mdb.Written {
	t.Helper()
	w, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage(typ, nil))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func execute(t testing.TB, s *mdb.Store, sql string, args ...any) {
	t.Helper()
	if _, err := s.Pool().Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// export returns the lines of an export.
func export(t testing.TB, s *mdb.Store, opts archive.ExportOptions) string {
	t.Helper()
	var b bytes.Buffer
	done, err := archive.Export(t.Context(), s, &b, opts)
	if err != nil {
		t.Fatal(err)
	}
	if lines := int64(bytes.Count(b.Bytes(), []byte("\n"))); done.Messages != lines {
		t.Errorf("%d messages, in %d lines", done.Messages, lines)
	}
	return b.String()
}

// imports imports lines, and checks how many messages are written and found.
func imports(t testing.TB, s *mdb.Store, lines string, opts archive.ImportOptions, want archive.Imported) {
	t.Helper()
	got, err := archive.Import(t.Context(), s, strings.NewReader(lines), opts)
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// A line is what a test looks at of an exported message.
type line struct {
	ID             string
	Stream         string `json:"stream_name"`
	Type           string
	Position       int64
	GlobalPosition int64 `json:"global_position"`
	Data, Metadata json.RawMessage
	Time           string
}

func parse(t testing.TB, lines string) (all []line) {
	t.Helper()
	for d := json.NewDecoder(strings.NewReader(lines)); ; {
		var l line
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
}

// same returns the lines without what an import does not keep.
func same(t testing.TB, lines string, times bool) string {
	t.Helper()
	var b strings.Builder
	for _, l := range parse(t, lines) {
		if !times {
			l.Time = ""
		}
		fmt.Fprintln(&b, l.ID, l.Stream, l.Type, l.Position, string(l.Data), string(l.Metadata), l.Time)
	}
	return b.String()
}

// seed writes messages to streams of several categories in turn, in few transactions.
func seed(t testing.TB, s *mdb.Store, messages, bytes int) {
	t.Helper()
	execute(t, s, `SELECT message_store.write_message(gen_random_uuid()::varchar, 'category' || i % 7 || '-' || i % 50, 'Happened',
	jsonb_build_object('n', i, 'text', repeat('x', $2)), jsonb_build_object('correlationStreamName', 'order-' || i)) FROM generate_series(1, $1) AS i`, messages, bytes)
}

// open returns another store of the same database, with a pool of its own.
func open(t testing.TB, s *mdb.Store, prepare func(*pgxpool.Config)) *mdb.Store {
	t.Helper()
	opened, err := mdb.New(openPool(t, s.Pool().Config().ConnString(), prepare))
	if err != nil {
		t.Fatal(err)
	}
	return opened
}
