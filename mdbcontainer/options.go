package mdbcontainer

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/testcontainers/testcontainers-go"
)

// setup is what Run does after the server has started.
type setup struct {
	notify  bool
	scripts []string
}

// option is an option of this package for setup.
type option func(*setup)

// Customize does nothing: Run applies the option itself.
func (option) Customize(*testcontainers.GenericContainerRequest) error { return nil }

// WithDatabase sets the name of the database. The default is [DefaultDatabase].
func WithDatabase(name string) testcontainers.ContainerCustomizer {
	return variable("POSTGRES_DB", "the database", name)
}

// WithUsername sets the name of the superuser. The default is postgres.
func WithUsername(name string) testcontainers.ContainerCustomizer {
	return variable("POSTGRES_USER", "the user", name)
}

// WithPassword sets the superuser's password. The default is random.
func WithPassword(password string) testcontainers.ContainerCustomizer {
	return variable("POSTGRES_PASSWORD", "the password", password)
}

func variable(name, what, value string) testcontainers.CustomizeRequestOption {
	return func(req *testcontainers.GenericContainerRequest) error {
		if value == "" || strings.ContainsRune(value, 0) {
			return fmt.Errorf("%s is empty or contains a zero byte", what)
		}
		return testcontainers.WithEnv(map[string]string{name: value})(req)
	}
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.$]*$`)

// WithSetting sets a parameter of the server, as in postgresql.conf. If a parameter is
// set twice, the later value counts.
func WithSetting(name, value string) testcontainers.ContainerCustomizer {
	return testcontainers.CustomizeRequestOption(func(req *testcontainers.GenericContainerRequest) error {
		if !settingName.MatchString(name) {
			return fmt.Errorf("the setting is %q, want the name of a parameter, such as work_mem", name)
		}
		return testcontainers.WithCmdArgs("-c", name+"="+value)(req)
	})
}

// WithNotify installs the NOTIFY trigger, for stores that are created with
// [github.com/messagedb-go/messagedb/mdb.WithNotify].
func WithNotify() testcontainers.ContainerCustomizer {
	return option(func(s *setup) { s.notify = true })
}

// WithInitScripts runs SQL files in the database after Message DB is installed, in the
// given order, each in one transaction. The files contain SQL only: psql's own commands,
// such as \i, fail.
func WithInitScripts(files ...string) testcontainers.ContainerCustomizer {
	return option(func(s *setup) { s.scripts = append(s.scripts, files...) })
}

type script struct{ name, sql string }

// read reads the scripts, before a container is started that a missing file would waste.
func (s setup) read() ([]script, error) {
	scripts := make([]script, 0, len(s.scripts))
	for _, name := range s.scripts {
		sql, err := os.ReadFile(name) //nolint:gosec // the caller's tests name their own files
		if err != nil {
			return nil, fmt.Errorf("mdbcontainer: read an init script: %w", err)
		}
		scripts = append(scripts, script{name, string(sql)})
	}
	return scripts, nil
}
