package archive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// unusual are data and metadata that a copy could change.
var unusual = []string{
	``, `null`, `{}`, `[]`, `""`, `"\u00e9\u2028\n\t\"\\<&>"`, `1e400`, `0.10`, `-0`, `123456789012345678901234567890.5`,
	`{"b": 1, "a": {"c": [1, 2, {"d": null}]}}`, `{"\ud83d\ude00": "\ud83d\ude00", "a\tb": "\u0001"}`, `"{\"json\": \"in a string\"}"`,
}

func newUnusual(t *testing.T) *mdb.Store {
	t.Helper()
	s := mdbtest.Store(t)
	for i, data := range unusual {
		for _, stream := range []mdb.StreamName{"account-1", "account", `order"\-ä+b`, "order-\u2028<&>", "account:command-1"} {
			m := mdb.NewMessage("Opened \"\\\u00e9\u2028<&>", nil)
			if data != "" {
				m.Data, m.Metadata = json.RawMessage(data), json.RawMessage(unusual[len(unusual)-i-1])
			}
			if unusual[len(unusual)-i-1] == "" {
				m.Metadata = nil
			}
			if _, err := s.WriteMessage(t.Context(), stream, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// TestCopy checks that an import keeps everything of messages but global positions and times, with all kinds of data and
// names, and that what is exported is what a read returns.
func TestCopy(t *testing.T) {
	t.Parallel()
	from, to := newUnusual(t), mdbtest.Store(t)
	lines := export(t, from, archive.ExportOptions{})
	all := parse(t, lines)
	i := 0
	for m, err := range from.AllMessages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got := all[i]; got.ID != m.ID.String() || got.Stream != string(m.Stream) || got.Type != m.Type || got.Position != m.Position ||
			got.GlobalPosition != m.GlobalPosition || string(got.Data) != string(m.Data) || string(got.Metadata) != string(m.Metadata) {
			t.Errorf("exported %+v, want %s with %s and %s", got, m, m.Data, m.Metadata)
		}
		i++
	}
	if i != len(unusual)*5 || i != len(all) {
		t.Errorf("%d messages, exported %d", i, len(all))
	}
	write(t, to, "other-1", "Before") // so that global positions differ
	n := int64(len(all))
	imports(t, to, lines, archive.ImportOptions{}, archive.Imported{Written: n})
	copied := export(t, to, archive.ExportOptions{After: 1})
	if got, want := same(t, copied, false), same(t, lines, false); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	// The same again finds everything, also where it comes from.
	imports(t, to, lines, archive.ImportOptions{}, archive.Imported{Found: n})
	imports(t, from, copied, archive.ImportOptions{Times: true}, archive.Imported{Found: n})
}

// TestCopyTimes checks that times are kept if that is asked for, to the microsecond.
func TestCopyTimes(t *testing.T) {
	t.Parallel()
	from, to, later := newUnusual(t), mdbtest.Store(t), mdbtest.Store(t)
	execute(t, from, `UPDATE message_store.messages SET time = '1999-12-31 23:59:59.000001'::timestamp - global_position * interval '1 day 1 microsecond'`)
	lines := export(t, from, archive.ExportOptions{})
	n := int64(len(parse(t, lines)))
	imports(t, to, lines, archive.ImportOptions{Times: true}, archive.Imported{Written: n})
	if got, want := same(t, export(t, to, archive.ExportOptions{}), true), same(t, lines, true); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	imports(t, later, lines, archive.ImportOptions{}, archive.Imported{Written: n})
	for _, l := range parse(t, export(t, later, archive.ExportOptions{})) {
		if l.Time < "2000" {
			t.Errorf("%s/%d has the time %s without Times", l.Stream, l.Position, l.Time)
		}
	}
}

// TestImportContinues checks that an import that ends anywhere is continued by the same one, on batches of other
// sizes, and that nothing is missing or there twice.
func TestImportContinues(t *testing.T) {
	t.Parallel()
	from, to := mdbtest.Store(t), mdbtest.Store(t)
	seed(t, from, 2600, 10)
	lines := export(t, from, archive.ExportOptions{})
	var found int64
	for _, part := range []int{0, 1, len(lines) / 7, len(lines) / 2, len(lines) - 1} {
		done, err := archive.Import(t.Context(), to, strings.NewReader(lines[:part]), archive.ImportOptions{})
		whole := int64(strings.Count(lines[:part], "\n"))
		if part == len(lines)-1 {
			whole++ // only its line end is missing
		}
		if cut := (*archive.InputError)(nil); err != nil && !errors.As(err, &cut) || done != (archive.Imported{Written: whole - found, Found: found}) {
			t.Errorf("%d bytes: got %+v, %v", part, done, err)
		}
		found = whole
	}
	imports(t, to, lines, archive.ImportOptions{}, archive.Imported{Found: 2600})
	if got, want := same(t, export(t, to, archive.ExportOptions{}), false), same(t, lines, false); got != want {
		t.Error("the copy is different")
	}
}

// TestImportConflicts checks what an import says of messages that it cannot write, and that it writes those before them.
func TestImportConflicts(t *testing.T) {
	t.Parallel()
	from := mdbtest.Store(t)
	for _, stream := range []mdb.StreamName{"account-1", "account-2", "account-1", "account-1"} {
		write(t, from, stream, "Opened")
	}
	lines := strings.SplitAfter(strings.TrimSpace(export(t, from, archive.ExportOptions{})), "\n")
	all := strings.Join(lines, "")
	rename := func(line, old, replacement string) string { return strings.Replace(line, old, replacement, 1) }
	for name, c := range map[string]struct {
		lines, before string // before: statements that change the store
		opts          archive.ImportOptions
		written       int64
		want          string
	}{
		"another message at the position": {
			all, `SELECT message_store.write_message(gen_random_uuid()::varchar, 'account-1', 'Other', NULL)`,
			archive.ImportOptions{},
			0, "message 1, at account-1/0: the stream has another message at this position",
		},
		"the beginning is missing": {lines[2], ``, archive.ImportOptions{}, 0, "message 1, at account-1/1: the stream has no messages in the store, so the messages before it are missing"},
		"a message is missing":     {lines[0] + lines[1] + lines[3], ``, archive.ImportOptions{}, 2, "message 3, at account-1/2: the stream ends at position 0 in the store, so the messages between are missing"},
		"another stream": {
			all, `SELECT message_store.write_message('` + parse(t, all)[1].ID + `', 'account-3', 'Opened', NULL)`,
			archive.ImportOptions{},
			1, "message 2, at account-2/0: the message with the ID " + parse(t, all)[1].ID + " in the store has another stream, account-3",
		},
		"another type": {
			all, `SELECT message_store.write_message('` + parse(t, all)[0].ID + `', 'account-1', 'Closed', NULL)`,
			archive.ImportOptions{},
			0, "has another type, Closed",
		},
		"other data": {
			all, `SELECT message_store.write_message('` + parse(t, all)[0].ID + `', 'account-1', 'Opened', '{"secret": 1}')`,
			archive.ImportOptions{},
			0, "has another data",
		},
		"other metadata": {
			all, `SELECT message_store.write_message('` + parse(t, all)[0].ID + `', 'account-1', 'Opened', NULL, '{"secret": 1}')`,
			archive.ImportOptions{},
			0, "has another metadata",
		},
		"twice":                {all + rename(lines[0], `"global_position":1`, `"global_position":9`), ``, archive.ImportOptions{}, 4, ""},
		"an ID twice":          {all + rename(rename(lines[0], `"global_position":1`, `"global_position":9`), `"position":0`, `"position":3`), ``, archive.ImportOptions{}, 4, "message 5, at account-1/3: the message with the ID " + parse(t, all)[0].ID + " in the store has another position, 0"},
		"out of order":         {all + lines[0], ``, archive.ImportOptions{}, 4, "message 5: its global position does not follow that of the message before"},
		"no global position":   {rename(lines[0], `"global_position":1,`, ``), ``, archive.ImportOptions{}, 0, "message 1: its global position does not follow"},
		"no position":          {rename(lines[0], `"position":0,`, ``), ``, archive.ImportOptions{}, 0, "message 1: it has no position"},
		"a position of null":   {rename(lines[0], `"position":0,`, `"position":null,`), ``, archive.ImportOptions{}, 0, "message 1: it has no position"},
		"a negative position":  {rename(lines[0], `"position":0,`, `"position":-1,`), ``, archive.ImportOptions{}, 0, "message 1: it has no position"},
		"no ID":                {rename(lines[0], parse(t, all)[0].ID, ``), ``, archive.ImportOptions{}, 0, `message 1: want a UUID as the id, got ""`},
		"no stream":            {rename(lines[0], "account-1", "-1"), ``, archive.ImportOptions{}, 0, `message 1: want the name of a stream as the stream_name, got "-1"`},
		"no time":              {rename(lines[0], `"time":"`, `"time":"x`), ``, archive.ImportOptions{Times: true}, 0, `message 1: want a time such as`},
		"not JSON":             {all + "no", ``, archive.ImportOptions{}, 4, "message 5 is not valid JSON"},
		"an unknown field":     {rename(lines[0], `"type"`, `"kind"`), ``, archive.ImportOptions{}, 0, `message 1 has the unknown field "kind"`},
		"what jsonb rejects":   {all + rename(rename(rename(lines[0], parse(t, all)[0].ID, "11111111-1111-4111-8111-111111111111"), `"global_position":1`, `"global_position":9`), `"position":0`, `"position":3,"data":"secret \u0000"`), ``, archive.ImportOptions{}, 4, "message 5, at account-1/3: "},
		"a gap":                {lines[2], ``, archive.ImportOptions{Gaps: true}, 1, ""},
		"a gap, with a time":   {lines[0] + lines[3], ``, archive.ImportOptions{Gaps: true, Times: true}, 2, ""},
		"a gap before the end": {lines[2], `INSERT INTO message_store.messages (stream_name, position, type) VALUES ('account-1', 5, 'Later')`, archive.ImportOptions{Gaps: true}, 0, "the stream has another message at this position"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := mdbtest.Store(t)
			if c.before != "" {
				execute(t, to, c.before)
			}
			done, err := archive.Import(t.Context(), to, strings.NewReader(c.lines), c.opts)
			if done.Written != c.written {
				t.Errorf("%d messages are written, want %d", done.Written, c.written)
			}
			var stored int64
			if err := to.Pool().QueryRow(t.Context(), `SELECT count(*) FROM message_store.messages`).Scan(&stored); err != nil {
				t.Fatal(err)
			}
			if before := int64(min(len(c.before), 1)); stored != c.written+before && name != "twice" {
				t.Errorf("%d messages are stored, want %d", stored, c.written+before)
			}
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("the error contains data: %v", err)
			}
		})
	}
}

// TestExportWaits checks that an export does not pass over a message that becomes visible later.
func TestExportWaits(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	tx, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := s.WithTx(tx).WriteMessage(t.Context(), "slow-1", mdb.NewMessage("First", nil)); err != nil {
		t.Fatal(err)
	}
	write(t, s, "fast-1", "Second")
	lines := make(chan string)
	go func() {
		var b bytes.Buffer
		_, err := archive.Export(t.Context(), s, &b, archive.ExportOptions{})
		if err != nil {
			b.WriteString(err.Error())
		}
		lines <- b.String()
	}()
	// The barrier asks which sessions hold the locks as long as they do.
	for waits := false; !waits; {
		if err := s.Pool().QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND pid <> pg_backend_pid() AND query LIKE '%virtualtransaction%')`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := parse(t, <-lines)
	if len(all) != 2 || all[0].Type != "First" || all[1].Type != "Second" {
		t.Errorf("exported %+v", all)
	}
}

// TestExportSelects checks the options, and where an export ends.
func TestExportSelects(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	for i, stream := range []mdb.StreamName{"a-1", "b-1", "c-1", "a-1", "b-1"} {
		if w := write(t, s, stream, "Happened"); w.GlobalPosition != int64(i)+1 {
			t.Fatalf("global position %d", w.GlobalPosition)
		}
	}
	rollback := func() { // draws a position
		tx, err := s.Pool().Begin(t.Context())
		if err == nil {
			_, err = s.WithTx(tx).WriteMessage(t.Context(), "a-1", mdb.NewMessage("Undone", nil))
		}
		if err == nil {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rollback()
	for name, c := range map[string]struct {
		opts archive.ExportOptions
		want archive.Exported
	}{
		"all":               {archive.ExportOptions{}, archive.Exported{Messages: 5, Position: 5, Final: 6}},
		"after a position":  {archive.ExportOptions{After: 3}, archive.Exported{Messages: 2, Position: 5, Final: 6}},
		"a category":        {archive.ExportOptions{Categories: []mdb.Category{"a"}}, archive.Exported{Messages: 2, Position: 4, Final: 6}},
		"two, after one":    {archive.ExportOptions{Categories: []mdb.Category{"c", "a"}, After: 1}, archive.Exported{Messages: 2, Position: 4, Final: 6}},
		"nothing":           {archive.ExportOptions{Categories: []mdb.Category{"none"}}, archive.Exported{Final: 6}},
		"after all":         {archive.ExportOptions{After: 6}, archive.Exported{Position: 6, Final: 6}},
		"after what exists": {archive.ExportOptions{After: 9}, archive.Exported{Position: 9, Final: 9}},
	} {
		var last archive.Exported
		c.opts.Progress = func(done archive.Exported) { last = done }
		if got, err := archive.Export(t.Context(), s, io.Discard, c.opts); err != nil || got != c.want || last != c.want {
			t.Errorf("%s: got %+v, %v, and progress %+v, want %+v", name, got, err, last, c.want)
		}
	}
}

// TestExportEnds checks that an export leaves out what is written after it has begun, so that the next one can begin after Final.
func TestExportEnds(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	seed(t, s, 1500, 10)
	later := 0
	done, err := archive.Export(t.Context(), s, io.Discard, archive.ExportOptions{Progress: func(archive.Exported) {
		later++
		write(t, s, "category1-1", "Later")
	}})
	if err != nil || later != 2 || done != (archive.Exported{Messages: 1500, Position: 1500, Final: 1500}) {
		t.Errorf("got %+v, %v, and %d reports, want 1500 messages and 2", done, err, later)
	}
	if next := parse(t, export(t, s, archive.ExportOptions{After: done.Final})); len(next) != later {
		t.Errorf("then %d messages are exported, want %d", len(next), later)
	}
}

// TestArguments checks that wrong arguments are errors before anything is sent.
func TestArguments(t *testing.T) {
	t.Parallel()
	pool := mdbtest.Store(t).Pool()
	s, err := mdb.New(pool)
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()
	for name, call := range map[string]func() error{
		"export after": func() error {
			_, err := archive.Export(t.Context(), s, io.Discard, archive.ExportOptions{After: -1})
			return err
		},
		"export category": func() error {
			_, err := archive.Export(t.Context(), s, io.Discard, archive.ExportOptions{Categories: []mdb.Category{"a", "a-1"}})
			return err
		},
		"delete nothing": func() error { _, err := archive.Delete(t.Context(), pool, archive.Old{Before: 1}, nil); return err },
		"delete both": func() error {
			_, err := archive.Delete(t.Context(), pool, archive.Old{Before: 1, Stream: "a-1", Category: "a"}, nil)
			return err
		},
		"delete all": func() error { _, err := archive.Delete(t.Context(), pool, archive.Old{Category: "a"}, nil); return err },
		"count stream": func() error {
			_, err := archive.Count(t.Context(), pool, archive.Old{Stream: "a", Before: math.MaxInt64})
			return err
		},
		"count category": func() error {
			_, err := archive.Count(t.Context(), pool, archive.Old{Category: "a-1", Before: 1})
			return err
		},
		"count before": func() error {
			_, err := archive.Count(t.Context(), pool, archive.Old{Category: "a", Before: -1})
			return err
		},
		"count kept": func() error {
			_, err := archive.Count(t.Context(), pool, archive.Old{Category: "a", Before: 1, KeepFrom: -1})
			return err
		},
	} {
		if wrong := (*mdb.ArgumentError)(nil); !errors.As(call(), &wrong) || len(wrong.Faults) != 1 {
			t.Errorf("%s: got %v, want an ArgumentError", name, call())
		}
	}
}
