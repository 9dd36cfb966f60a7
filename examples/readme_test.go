package examples_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestREADME keeps the Go code of the README, and of docs, the code of files that are
// compiled and run: each block names its file and is a part of it, to the letter.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(readme), "\n"); lines > 200 {
		t.Errorf("the README has %d lines, want at most 200", lines)
	}
	if !strings.Contains(string(readme), "```go") {
		t.Fatal("the README has no code")
	}
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(docs, "../README.md") {
		checkPage(t, name)
	}
}

func checkPage(t *testing.T, page string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)(?:<!-- ([^ ]+) -->\n)?```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	for _, block := range blocks {
		name, code := block[1], block[2]
		if name == "" {
			t.Errorf("%s: a block names no file:\n%s", page, code)
			continue
		}
		file, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(file), code) {
			t.Errorf("%s: this is not in %s:\n%s", page, name, code)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
			t.Errorf("%s: a link leads nowhere: %v", page, err)
		}
	}
}
