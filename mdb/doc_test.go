package mdb_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestOptionTable checks that the table of options in the package documentation has a row
// for each option, and no other rows.
func TestOptionTable(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var options []string
	documentation := ""
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		documentation += file.Doc.Text()
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.IsExported() && returnsOption(f) {
				options = append(options, f.Name.Name)
			}
		}
	}
	_, table, found := strings.Cut(documentation, "# Options\n")
	if !found {
		t.Fatal("the package documentation has no options")
	}
	var rows []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "\t ") && fields[0] != "option" {
			rows = append(rows, fields[0])
		}
	}
	slices.Sort(options)
	slices.Sort(rows)
	if rows = slices.Compact(rows); !slices.Equal(rows, options) {
		t.Errorf("rows %q, want %q", rows, options)
	}
}

// returnsOption reports whether f returns an option.
func returnsOption(f *ast.FuncDecl) bool {
	if f.Type.Results == nil || len(f.Type.Results.List) != 1 {
		return false
	}
	name, ok := f.Type.Results.List[0].Type.(*ast.Ident)
	return ok && name.IsExported() && strings.HasSuffix(name.Name, "Option")
}
