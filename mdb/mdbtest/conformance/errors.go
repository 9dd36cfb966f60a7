package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

type errorCase struct {
	Name    string `json:"name"`
	Setting string `json:"setting"` // of message_store.sql_condition, "" for none
	Call    string `json:"call"`

	Code       string `json:"code"`
	Message    string `json:"message"` // "" for PostgreSQL's own, whose language varies
	Constraint string `json:"constraint"`
	Column     string `json:"column"`
}

// rejections is about the calls of the section's function that fail.
func (s *suite) rejections(t *testing.T) {
	t.Helper()
	for _, c := range load[map[string][]errorCase](t, "errors.json")[s.section] {
		s.check(t, c.Name, func(t *testing.T) {
			at := newPlace("rejected")
			write(t, s.store.Pool(), proposal{id: at.id.String(), stream: at.stream})

			tx := s.begin(t, pgx.TxOptions{})
			if c.Setting != "" {
				set(t, tx, conditionSetting, c.Setting)
			}
			got := rejection(t, tx, at.fill(c.Call))
			if got.Code != c.Code {
				t.Errorf("got %s (%s), want %s", got.Code, got.Message, c.Code)
			}
			if want := at.fill(c.Message); c.Message != "" && got.Message != want {
				t.Errorf("got %q, want %q", got.Message, want)
			}
			if c.Constraint != "" && got.ConstraintName != c.Constraint {
				t.Errorf("got constraint %q, want %q", got.ConstraintName, c.Constraint)
			}
			if c.Column != "" && got.ColumnName != c.Column {
				t.Errorf("got column %q, want %q", got.ColumnName, c.Column)
			}
		})
	}
}
