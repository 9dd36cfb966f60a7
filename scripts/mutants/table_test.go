package main

import "testing"

// TestTable checks that the program still contains what the mutants change, and names what they break once.
func TestTable(t *testing.T) {
	t.Chdir("../..")
	rules := make(map[string]bool)
	for _, m := range mutants {
		if rules[m.rule] {
			t.Errorf("the rule %q occurs twice", m.rule)
		}
		if rules[m.rule] = true; m.file == "" {
			continue
		}
		if _, err := m.overlay(t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.rule, err)
		}
	}
}
