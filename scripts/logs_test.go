package scripts_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLogs checks that docs/production.md lists exactly the lines that the code logs, with their levels and attributes,
// and that it explains each attribute.
func TestLogs(t *testing.T) {
	t.Parallel()
	_, page, found := strings.Cut(read(t, "../docs/production.md"), "\n## Logs\n")
	if !found {
		t.Fatal("the page has no section of logs")
	}
	documented := make(map[string]string)
	var used []string
	for _, row := range regexp.MustCompile(`(?m)^\| (Debug|Info|Warn|Error) \| (.*?) \| (.*?) ?\| .* \|$`).FindAllStringSubmatch(page, -1) {
		attrs := find(row[3], "`([a-z_]+)`")
		used = append(used, attrs...)
		documented[row[2]] = strings.Join(append([]string{row[1]}, sorted(attrs)...), " ")
	}
	logged := loggedLines(t, "../mdb", "../mdbweb", "../internal", "../cmd")
	lines := maps.Clone(logged)
	maps.Copy(lines, documented)
	for line := range lines {
		if documented[line] != logged[line] {
			t.Errorf("%q: the page has %q, and the code %q", line, documented[line], logged[line])
		}
	}
	used = append(used, "consumer", "instance", "shard")
	_, meanings, _ := strings.Cut(page, "| Attribute | Meaning |")
	var explained []string
	for _, cell := range find(meanings, "(?m)^\\| (`.*?`) \\| ") {
		explained = append(explained, find(cell, "`([a-z_]+)`")...)
	}
	if want := slices.Compact(sorted(used)); !slices.Equal(sorted(explained), want) {
		t.Errorf("the page explains the attributes %q, want %q", sorted(explained), want)
	}
}

// loggedLines returns the level and the attributes of each line that the code in the folders logs.
func loggedLines(t *testing.T, folders ...string) map[string]string {
	t.Helper()
	lines := make(map[string]string)
	for _, folder := range folders {
		if err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, decl := range file.Decls {
				ast.Inspect(decl, func(n ast.Node) bool {
					if call, ok := n.(*ast.CallExpr); ok {
						level, args := logCall(call)
						if level == "" {
							return true
						}
						attrs := sorted(keysOf(decl, args[1:]))
						for _, text := range textsOf(decl, args[0]) {
							if lines[text] != "" {
								t.Errorf("%s: %q is logged twice", path, text)
							}
							lines[text] = strings.Join(append([]string{level}, attrs...), " ")
						}
					}
					return true
				})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return lines
}

// logCall returns the level of a call that logs, and its arguments from the text on, or "" for another call.
func logCall(call *ast.CallExpr) (level string, args []ast.Expr) {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", nil
	}
	switch name := method.Sel.Name; name {
	case "Debug", "Info", "Warn", "Error":
		if isLogger(method.X) {
			return name, call.Args
		}
	case "LogAttrs", "Log":
		if len(call.Args) > 2 {
			if of, ok := call.Args[1].(*ast.SelectorExpr); ok {
				return strings.TrimPrefix(of.Sel.Name, "Level"), call.Args[2:]
			}
		}
	}
	return "", nil
}

// isLogger reports whether the name of a variable or field is that of a logger, whereas others have methods like Error, too.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return isLogger(e.Sel)
	case *ast.Ident:
		return strings.HasSuffix(strings.ToLower(e.Name), "logger") || e.Name == "slog"
	}
	return false
}

// textsOf returns the texts that an argument can have: a literal, or what a variable of the function is set to.
func textsOf(within ast.Decl, arg ast.Expr) (texts []string) {
	if text, ok := literal(arg); ok {
		return []string{text}
	}
	for _, value := range assigned(within, arg) {
		if text, ok := literal(value); ok && text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

// keysOf returns the keys of attributes: pairs of a text and a value, slog's functions, a call that is passed on such as
// that of attrs, and a variable of the function that was made of these.
func keysOf(within ast.Decl, args []ast.Expr) (keys []string) {
	for i := 0; i < len(args); i++ {
		switch arg := args[i].(type) {
		case *ast.BasicLit:
			if key, ok := literal(arg); ok {
				keys = append(keys, key)
				i++ // its value
			}
		case *ast.CallExpr:
			keys = append(keys, keysOf(nil, arg.Args)...)
		case *ast.CompositeLit:
			keys = append(keys, keysOf(nil, arg.Elts)...)
		case *ast.Ident:
			if within != nil {
				keys = append(keys, keysOf(nil, assigned(within, arg))...)
			}
		}
	}
	return keys
}

// assigned returns the values that the function assigns to a variable.
func assigned(within ast.Decl, variable ast.Expr) (values []ast.Expr) {
	name, ok := variable.(*ast.Ident)
	if !ok {
		return nil
	}
	ast.Inspect(within, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == len(a.Rhs) {
			for i, to := range a.Lhs {
				if to, ok := to.(*ast.Ident); ok && to.Name == name.Name {
					values = append(values, a.Rhs[i])
				}
			}
		}
		return true
	})
	return values
}

// literal returns the text of a literal.
func literal(e ast.Expr) (text string, ok bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}
