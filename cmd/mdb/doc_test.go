package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocComment checks that the package comment contains the text of mdb help.
func TestDocComment(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll("\n"+overview(), "\n", "\n\t")
	want = strings.TrimSpace(strings.ReplaceAll(want, "\n\t\n", "\n\n"))
	if got := file.Doc.Text(); !strings.Contains(got, want) {
		t.Errorf("the package comment is:\n%s\nit does not contain:\n%s", got, want)
	}
}

// TestMentions checks that the commands that the pages mention exist, with their options, and that each page that shows what commands
// print is one whose commands a test runs.
func TestMentions(t *testing.T) {
	t.Parallel()
	run := []string{"command.md", "consumers.md", "retention.md", "runbooks.md"} // by TestDocumentation and TestRunbooks
	succeed := []string{"proxies.md", "retention.md", "scaling.md"}              // by TestPLProxyDocumentation and TestArchiveDocumentation
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	mentions := 0
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(page); strings.Contains(string(text), "```console") && !slices.Contains(run, name) {
			t.Errorf("no test runs the commands of %s", name)
		}
		if name := filepath.Base(page); regexp.MustCompile(`(?m)^ {4,}(.*\| )?mdb `).Match(text) && !slices.Contains(succeed, name) {
			t.Errorf("no test runs the commands of %s that are shown without what they print", name)
		}
		for _, mention := range regexp.MustCompile("`mdb ([^`]*)`").FindAllStringSubmatch(string(text), -1) {
			mentions++
			if what := unknown(strings.Fields(mention[1])); what != "" {
				t.Errorf("%s mentions mdb %s, and %s is unknown", filepath.Base(page), mention[1], what)
			}
		}
	}
	if mentions == 0 {
		t.Error("no page mentions a command")
	}
}

// unknown returns what of a command does not exist: its name, an option, or what consumers does.
func unknown(words []string) string {
	if words[0] == "help" {
		return ""
	}
	c, err := find(words[0])
	if err != nil {
		return words[0]
	}
	fs := new(app).flags(c.name)
	c.setup(fs)
	operations := consumersActions()
	for i, word := range words[1:] {
		option, isOption := strings.CutPrefix(word, "-")
		if isOption && fs.Lookup(option) == nil || c.name == "consumers" && i == 0 && !isOption && !slices.Contains(operations, word) {
			return word
		}
	}
	return ""
}
