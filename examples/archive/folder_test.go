//go:build unix

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

// now is on the day of the messages.
var now = time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)

// newMessages returns messages of the category account, of a second each. Their global positions have gaps.
func newMessages(n int, at time.Time) (ms []mdb.Message) {
	for i := range n {
		ms = append(ms, mdb.Message{
			ID: uuid.New(), Stream: mdb.StreamName(fmt.Sprint("account-", i%3)), Type: "Deposited", Position: int64(i / 3), GlobalPosition: int64(3*i + 1),
			Time: at.Add(time.Duration(i) * time.Second), Data: json.RawMessage(`{"n": ` + fmt.Sprint(i) + `}`),
		})
	}
	return ms
}

func linesOf(ms []mdb.Message) string {
	var lines []byte
	for i := range ms {
		lines = archive.AppendMessage(lines, &ms[i])
	}
	return string(lines)
}

func open(t *testing.T, path string, size int64) *folder {
	t.Helper()
	d, err := openFolder(path, "account", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

// add adds messages, and writes a member after each that are so many.
func add(t *testing.T, d *folder, ms []mdb.Message, each int) {
	t.Helper()
	for i := range ms {
		err := d.add(&ms[i])
		if err == nil && i%each == each-1 {
			err = d.flush(now)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.flush(now); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, path string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(path, "[0-9]*")) // without the lock
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// contents returns what gunzip makes of all files.
func contents(t *testing.T, path string) string {
	t.Helper()
	var all bytes.Buffer
	for _, name := range files(t, path) {
		all.Write(read(t, name))
	}
	if all.Len() == 0 {
		return ""
	}
	z, err := gzip.NewReader(&all)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(lines)
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path, filepath.Base(name)), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestResume checks that an archive continues wherever its last file ends, and then has each message once. The states that a
// kill can leave are all beginnings of the unfinished file, with or without files before it.
func TestResume(t *testing.T) {
	t.Parallel()
	ms := newMessages(14, now)
	const each, size = 2, 350
	whole := t.TempDir()
	d := open(t, whole, size)
	add(t, d, ms, each)
	d.close()
	names := files(t, whole)
	if len(names) < 3 || !strings.HasSuffix(names[0], "0001-2026-11-29"+finished) {
		t.Fatalf("got the files %v", names)
	}
	for i, name := range names {
		// What is finished was unfinished before, and complete.
		b := read(t, name)
		continued := -1
		for n := range len(b) + 1 {
			path := t.TempDir()
			for _, before := range names[:i] {
				write(t, path, before, read(t, before))
			}
			write(t, path, strings.TrimSuffix(name, ".partial")+".partial", b[:n])
			d := open(t, path, size)
			next := slices.IndexFunc(ms, func(m mdb.Message) bool { return m.GlobalPosition > d.checkpoint.Position() })
			if next < 0 {
				next = len(ms)
			}
			if next%each != 0 || linesOf(ms[:next]) != contents(t, path) {
				t.Fatalf("%d bytes of %s: continues after %d messages, the files have:\n%s", n, name, next, contents(t, path))
			}
			if next != continued { // otherwise the files are the same as before
				continued = next
				add(t, d, ms[next:], each)
				if got := contents(t, path); got != linesOf(ms) {
					t.Fatalf("%d bytes of %s: got:\n%s", n, name, got)
				}
			}
			d.close()
		}
	}
	d = open(t, whole, size)
	if got, want := d.checkpoint.Position(), ms[len(ms)-1].GlobalPosition; got != want {
		t.Errorf("the checkpoint is after %d, want %d", got, want)
	}
}

// TestDamaged checks that a file with a wrong byte is left as it is, unless the byte makes no difference, or is in the last
// member of the unfinished file. This is cut off, as if it was incomplete.
func TestDamaged(t *testing.T) {
	t.Parallel()
	ms := newMessages(9, now)
	whole := t.TempDir()
	add(t, open(t, whole, 1<<20), ms, 3)
	name := files(t, whole)[0]
	good := read(t, name)
	last := bytes.LastIndex(good, header)
	rejected := 0
	for i := range good {
		for _, flip := range []byte{1, 0x80, 0xff} {
			bad := slices.Clone(good)
			bad[i] ^= flip
			for _, suffix := range []string{".partial", ""} {
				path := t.TempDir()
				file := strings.TrimSuffix(filepath.Base(name), ".partial") + suffix
				write(t, path, file, bad)
				d, err := openFolder(path, "account", 1<<20)
				if err != nil {
					rejected++
					if got := read(t, filepath.Join(path, file)); !bytes.Equal(got, bad) || !strings.Contains(err.Error(), "damaged after its first") {
						t.Fatalf("byte %d: %v, the file has %d bytes of %d", i, err, len(got), len(bad))
					}
					continue
				}
				d.close()
				if got := contents(t, path); got != linesOf(ms) && (suffix == "" || i < last || got != linesOf(ms[:6])) {
					t.Fatalf("byte %d of %s, xor %#x: got:\n%s", i, file, flip, got)
				}
			}
		}
	}
	if rejected < len(good) {
		t.Errorf("only %d files of %d are rejected", rejected, 6*len(good))
	}
}

// TestDays checks that a file is finished when its day has ended, by a message or by time.
func TestDays(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := open(t, path, 1<<20)
	add(t, d, newMessages(4, now.Truncate(24*time.Hour).Add(24*time.Hour-2*time.Second)), 1) // two messages on each of two days
	if got := names(t, path); !slices.Equal(got, []string{"0000000000000000001-2026-11-29.jsonl.gz", "0000000000000000007-2026-11-30.jsonl.gz.partial"}) {
		t.Errorf("got %v", got)
	}
	d.close()
	d = open(t, path, 1<<20)
	if err := d.flush(now.Add(24 * time.Hour)); err != nil || !strings.HasSuffix(names(t, path)[1], partial) {
		t.Errorf("%v, got %v on the same day", err, names(t, path))
	}
	if err := d.flush(now.Add(48 * time.Hour)); err != nil || strings.HasSuffix(names(t, path)[1], partial) {
		t.Errorf("%v, got %v on the next day", err, names(t, path))
	}
}

func names(t *testing.T, path string) (names []string) {
	t.Helper()
	for _, name := range files(t, path) {
		names = append(names, filepath.Base(name))
	}
	return names
}

// TestOpenRejects checks folders that must not be continued.
func TestOpenRejects(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := open(t, path, 400)
	add(t, d, newMessages(24, now), 2)
	if _, err := openFolder(path, "account", 400); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("the folder is in use: %v", err)
	}
	d.close()
	if _, err := openFolder(path, "order", 400); err == nil || !strings.Contains(err.Error(), `of the category "account", not "order"`) {
		t.Errorf("another category: %v", err)
	}
	first := names(t, path)[0]
	if err := os.Rename(filepath.Join(path, first), filepath.Join(path, first+".partial")); err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(path, "account", 400); err == nil || !strings.Contains(err.Error(), "not the last one") {
		t.Errorf("an unfinished file before others: %v", err)
	}
}
