package main

import (
	"go/parser"
	"go/token"
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
