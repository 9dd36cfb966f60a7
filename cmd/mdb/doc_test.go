package main

import (
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestDocComment keeps what go doc shows the same as what mdb help shows.
func TestDocComment(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll("\n"+overview(), "\n", "\n\t")
	want = strings.TrimSpace(strings.ReplaceAll(want, "\n\t\n", "\n\n"))
	if got := file.Doc.Text(); !strings.Contains(got, want) {
		t.Errorf("the comment is:\n%s\nwant in it:\n%s", got, want)
	}
}
