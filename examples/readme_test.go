package examples_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestREADME checks that the README stays short, and that its code blocks, and those of
// docs, are taken to the letter from files that are compiled and run.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme := readPage(t, "../README.md")
	if lines := strings.Count(readme, "\n"); lines > 200 {
		t.Errorf("the README has %d lines, want at most 200", lines)
	}
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(docs, "../README.md") {
		for _, block := range codeBlocks(readPage(t, page), "go") {
			if block.file == "" {
				t.Errorf("%s: a block names no file:\n%s", page, block.text)
				continue
			}
			if !strings.Contains(readPage(t, "../"+block.file), block.text) {
				t.Errorf("%s: this is not in %s:\n%s", page, block.file, block.text)
			}
		}
	}
}

// TestREADMEProgram checks that the README's program, pasted into a module of its own,
// builds and prints what the README says, the second time as well.
func TestREADMEProgram(t *testing.T) {
	t.Parallel()
	readme := readPage(t, "../README.md")
	var program string
	for _, block := range codeBlocks(readme, "go") {
		if strings.HasPrefix(strings.TrimLeft(block.text, "/ "), "Quick start") {
			program = block.text
		}
	}
	outputs := codeBlocks(readme, "text")
	if program == "" || len(outputs) != 1 {
		t.Fatalf("found a program of %d bytes and %d outputs, want one of each", len(program), len(outputs))
	}

	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/messagedb-go/messagedb"
	folder := t.TempDir()
	for name, text := range map[string]string{
		"main.go": program,
		"go.mod":  fmt.Sprintf("module quickstart\n\ngo 1.25\n\nrequire %s v0.0.0\n\nreplace %[1]s => %s\n", module, root),
		"go.sum":  readPage(t, "../go.sum"),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", "quickstart", ".")
	build.Dir = folder
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	run := func(url string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(folder, "quickstart"))
		cmd.Env = append(os.Environ(), "DATABASE_URL="+url)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(""); err == nil || !strings.Contains(out, "DATABASE_URL is not set") {
		t.Errorf("without a URL: %v, %s", err, out)
	}
	url := testdb.Empty(t)
	for range 2 {
		if out, err := run(url); err != nil || out != outputs[0].text {
			t.Errorf("%v, got:\n%s\nwant:\n%s", err, out, outputs[0].text)
		}
	}
}

// TestREADMELinks checks that the links and images of all pages exist, headings included.
func TestREADMELinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`(?m)\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$|(?:src|srcset)="([^"]+)"`)
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	for _, page := range pages(t) {
		text := code.ReplaceAllString(readPage(t, page), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target := match[1] + match[2] + match[3]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, heading, _ := strings.Cut(target, "#")
			path := page
			if file != "" {
				path = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: a link is dead: %v", page, err)
				continue
			}
			if heading != "" && !hasHeading(readPage(t, path), heading) {
				t.Errorf("%s: %s has no heading #%s", page, path, heading)
			}
		}
	}
}

// pages returns the Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "results") {
			return filepath.SkipDir // results are generated
		}
		if err == nil && strings.HasSuffix(name, ".md") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A codeBlock is a fenced block, and the file that the comment above it names.
type codeBlock struct{ file, text string }

func codeBlocks(page, language string) []codeBlock {
	pattern := regexp.MustCompile("(?s)(?:<!-- ([^ ]+) -->\n)?```" + language + "\n(.*?)```")
	var blocks []codeBlock
	for _, match := range pattern.FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, codeBlock{file: match[1], text: match[2]})
	}
	return blocks
}

// hasHeading reports whether a page has the heading for which GitHub makes the anchor.
func hasHeading(page, anchor string) bool {
	punctuation := regexp.MustCompile(`[^\p{L}\p{N}\- ]`)
	for line := range strings.Lines(page) {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		title = punctuation.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
		if strings.ReplaceAll(title, " ", "-") == anchor {
			return true
		}
	}
	return false
}
