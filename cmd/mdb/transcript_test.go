package main_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what the commands print")

// TestTranscripts checks that the commands of testdata/cli print what the transcripts
// say. A line that begins with a dollar is run in a shell. What it prints follows, to
// the standard output and the standard error, and then its exit status unless that is 0.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../testdata/cli/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newShell(t, string(text)).replay(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(updated(string(text), got)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			requireSame(t, got, string(text))
		})
	}
}

// TestDocumentation checks that the commands of the pages, run in their order, print what
// the pages say.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"command", "consumers", "retention"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("../../docs/" + name + ".md")
			if err != nil {
				t.Fatal(err)
			}
			page := string(text)
			for _, block := range regexp.MustCompile("(?s)```(\\w*)\n(.*?)```").FindAllStringSubmatch(page, -1) {
				if name == "command" && block[1] != "console" {
					t.Errorf("a block of language %q, want console:\n%s", block[1], block[2])
				}
			}
			blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(page, -1)
			if len(blocks) == 0 {
				t.Fatal("the page shows no command")
			}
			sh, begun := newShell(t, page), false
			if name == "retention" {
				if out, status := sh.run(t, `for type in Opened Deposited Deposited Closed; do mdb write -empty account-123 $type; done
					mdb write -empty account-124 Opened`); status != 0 {
					t.Fatal(out)
				}
			}
			for _, block := range blocks {
				if !begun && strings.Contains(block[1], "$ mdb consumers") {
					begun = true
					if out, status := sh.run(t, "mdb install -consumers && mailer -partitions 4 -catch-up"); status != 0 {
						t.Fatal(out)
					}
				}
				requireSame(t, sh.replay(t, block[1]), block[1])
			}
		})
	}
}

// TestLinks checks that the files to which the pages of docs link exist.
func TestLinks(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^):#]+)(#[^)]*)?\)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s has a dead link: %v", filepath.Base(page), err)
			}
		}
	}
}

// requireSame reports the first line that differs.
func requireSame(t *testing.T, got, want string) {
	t.Helper()
	gotLines, wantLines := strings.Split(normal(got), "\n"), strings.Split(normal(want), "\n")
	if slices.Equal(gotLines, wantLines) {
		return
	}
	i := 0
	for i < min(len(gotLines), len(wantLines)) && gotLines[i] == wantLines[i] {
		i++
	}
	t.Errorf("got:\n%s\nwant, from line %d on:\n%s", got, i+1, strings.Join(wantLines[min(i, len(wantLines)):], "\n"))
}

// updated returns what the commands print, with the lines of the old text where they differ in what varies only.
func updated(old, got string) string {
	same := make(map[string]string)
	for line := range strings.SplitSeq(old, "\n") {
		same[normal(line)] = line
	}
	lines := strings.Split(got, "\n")
	for i, line := range lines {
		if old, ok := same[normal(line)]; ok {
			lines[i] = old
		}
	}
	return strings.Join(lines, "\n")
}

// normal replaces IDs, times, ages and processes, which differ from run to run.
func normal(text string) string {
	for _, varies := range []struct{ what, pattern string }{
		{"UUID", `[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`},
		{"TIME", `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`},
		{"AGE  ", `\b\d+[smhd] {2,}`}, // the heading of the column is longer
		{`"epoch":1`, `"epoch":\d+`},
		{"HOST, process 1", `[^ "]+, process \d+`},
	} {
		text = regexp.MustCompile(varies.pattern).ReplaceAllString(text, varies.what)
	}
	return text
}

// A shell runs commands in its own folder and with its own databases.
type shell struct {
	folder string
	env    []string
}

// newShell returns a shell with the databases that the text mentions: Message DB is
// installed in DATABASE_URL and OTHER_URL, but not in EMPTY_URL.
func newShell(t *testing.T, text string) *shell {
	t.Helper()
	sh := &shell{folder: t.TempDir(), env: environment("DATABASE_URL=" + testdb.New(t))}
	if strings.Contains(text, "$OTHER_URL") {
		sh.env = append(sh.env, "OTHER_URL="+testdb.New(t))
	}
	if strings.Contains(text, "$EMPTY_URL") {
		sh.env = append(sh.env, "EMPTY_URL="+testdb.Empty(t))
	}
	return sh
}

// environment returns the environment of the process without the variables that the
// command reads, and with the command in the path.
func environment(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "DATABASE_URL=") || strings.HasPrefix(v, "NO_COLOR=")
	})
	path := filepath.Dir(program) + string(os.PathListSeparator) + os.Getenv("PATH")
	return append(append(env, "PATH="+path), more...)
}

// replay runs the commands of a transcript and returns the transcript with their
// current output.
func (sh *shell) replay(t *testing.T, transcript string) string {
	t.Helper()
	var b strings.Builder
	lines := strings.SplitAfter(transcript, "\n")
	for i := 0; i < len(lines); i++ {
		command, ok := strings.CutPrefix(lines[i], "$ ")
		if !ok {
			if strings.HasPrefix(lines[i], "#") {
				b.WriteString(lines[i])
			}
			continue // old output
		}
		b.WriteString(lines[i])
		for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], "> "); i++ {
			command += lines[i+1][2:]
			b.WriteString(lines[i+1])
		}
		out, status := sh.run(t, command)
		b.WriteString(normal(out))
		if status != 0 {
			b.WriteString("[" + strconv.Itoa(status) + "]\n")
		}
	}
	return b.String()
}

func (sh *shell) run(t *testing.T, command string) (output string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
	cmd.Dir, cmd.Env = sh.folder, sh.env
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}
