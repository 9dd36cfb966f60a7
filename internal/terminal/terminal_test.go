package terminal_test

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/messagedb-go/messagedb/internal/terminal"
)

// TestCut checks what is left of texts that are too long.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		columns int
		want    string
		used    int
	}{
		{"", 0, "", 0},
		{"abc", 3, "abc", 3},
		{"abc", 9, "abc", 3},
		{"abcd", 3, "ab…", 3},
		{"abcd", 1, "…", 1},
		{"abcd", 0, "", 0},
		{"abcd", -5, "", 0},
		{"äöüß", 3, "äö…", 3},
		{"日本語", 6, "日本語", 6},
		{"日本語", 5, "日本…", 5},
		{"日本語", 4, "日…", 3},
		{"日本語", 1, "…", 1},
		{"a\u0301b\u0301", 2, "a\u0301b\u0301", 2},
		{"😀😀", 3, "😀…", 3},
	} {
		if got, used := terminal.Cut(c.text, c.columns); got != c.want || used != c.used {
			t.Errorf("%q in %d columns is %q in %d, want %q in %d", c.text, c.columns, got, used, c.want, c.used)
		}
	}
}

// FuzzCut checks that what is left fits, and is the beginning of the text.
func FuzzCut(f *testing.F) {
	f.Add("abc\u0301日本😀", 3)
	f.Fuzz(func(t *testing.T, text string, columns int) {
		if !utf8.ValidString(text) {
			t.Skip("what is printed is UTF-8")
		}
		got, used := terminal.Cut(text, columns)
		if used != terminal.Columns(got) || used > max(columns, 0) {
			t.Errorf("%q in %d columns is %q, which needs %d, not %d", text, columns, got, terminal.Columns(got), used)
		}
		if got != text && !strings.HasPrefix(text, strings.TrimSuffix(got, "…")) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

// TestWidthOfFile checks that a file, which is no terminal, has no width.
func TestWidthOfFile(t *testing.T) {
	t.Parallel()
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if width := terminal.Width(f); width != 0 {
		t.Errorf("width %d", width)
	}
}
