package archive_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestResume checks that an export continues a file that ends anywhere, so that it has each message once.
func TestResume(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	seed(t, s, 40, 100_000) // lines that are longer than what is read in one piece
	seed(t, s, 100, 10)
	lines := export(t, s, archive.ExportOptions{})
	name := filepath.Join(t.TempDir(), "messages.jsonl")
	for _, size := range []int{0, 1, 99_000, 100_500, len(lines) / 2, len(lines) - 2, len(lines) - 1, len(lines)} {
		if err := os.WriteFile(name, []byte(lines[:size]), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		after, err := archive.Resume(f)
		if whole := int64(strings.Count(lines[:size], "\n")); err != nil || after != whole {
			t.Errorf("%d bytes: after %d, %v, want %d", size, after, err, whole)
		}
		if _, err := archive.Export(t.Context(), s, f, archive.ExportOptions{After: after}); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != lines {
			t.Errorf("%d bytes: the file is not the same, %v", size, err)
		}
	}
}

// TestResumeOther checks that a file which is not an export is left unchanged.
func TestResumeOther(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"text\n", "text\nmore", "{\"type\": \"Opened\"}\n", "\n"} {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if after, err := archive.Resume(f); err == nil {
			t.Errorf("%q: after %d, want an error", text, after)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || string(got) != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
		_ = f.Close()
	}
}
