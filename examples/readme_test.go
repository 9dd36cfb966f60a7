package examples_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestREADME keeps the Go code of the README the code of files that are compiled
// and run: each block names its file and is a part of it, to the letter.
func TestREADME(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(readme), "\n"); lines > 200 {
		t.Errorf("the README has %d lines, want at most 200", lines)
	}
	blocks := regexp.MustCompile("(?s)(?:<!-- ([^ ]+) -->\n)?```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("the README has no code")
	}
	for _, block := range blocks {
		name, code := block[1], block[2]
		if name == "" {
			t.Errorf("a block names no file:\n%s", code)
			continue
		}
		file, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(file), code) {
			t.Errorf("this is not in %s:\n%s", name, code)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(string(readme), -1) {
		if _, err := os.Stat(filepath.Join("..", link[1])); err != nil {
			t.Errorf("a link leads nowhere: %v", err)
		}
	}
}
