package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/charmbracelet/x/term"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/schema"
)

var errDeclined = errors.New("nothing was written")

// prepareTheirs prepares the database of DATABASE_URL, if the user agrees.
func (d *database) prepareTheirs(ctx, asking context.Context) error {
	found, err := d.inspect(ctx)
	if err != nil {
		return err
	}
	fmt.Println(d.plan(found))
	if yes := strings.ToLower(os.Getenv("YES")); yes != "1" && yes != "y" && yes != "yes" {
		if err := ask(asking); err != nil {
			return err
		}
		// Somebody may have installed something while the question waited for its answer.
		now, err := d.inspect(ctx)
		if err != nil {
			return err
		}
		if now != found {
			return errors.New("the database has changed since the question was asked: run the demo again")
		}
	}
	if err := d.install(ctx, found); err != nil {
		_, undo := d.remove(context.WithoutCancel(ctx))
		return errors.Join(err, undo)
	}
	return nil
}

// An inspection is what is in the database already.
type inspection struct {
	database, user                  string
	store, role, trigger, consumers bool
}

const inspectSQL = `
SELECT current_database(), current_user,
       messages IS NOT NULL,
       to_regrole('message_store') IS NOT NULL,
       EXISTS (SELECT FROM pg_trigger WHERE tgrelid = messages AND tgname = 'message_store_notify'),
       to_regnamespace('message_store') IS NOT NULL,
       coalesce((SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = messages), ''),
       coalesce((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = messages), true),
       has_database_privilege(current_database(), 'CREATE')
  FROM to_regclass('message_store.messages') AS messages`

// inspect fails where the role lacks the rights that the demo needs.
func (d *database) inspect(ctx context.Context) (i inspection, err error) {
	var owner string
	var namespace, owns, creates bool
	var consumers schema.ConsumersState
	err = d.connect(ctx, func(conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, inspectSQL).Scan(&i.database, &i.user, &i.store, &i.role, &i.trigger, &namespace, &owner, &owns, &creates); err != nil {
			return err
		}
		consumers, err = schema.ConsumersStatus(ctx, conn)
		return err
	})
	i.consumers = consumers.Installed
	switch {
	case err != nil:
		return i, fmt.Errorf("DATABASE_URL: %w", err)
	case !owns:
		return i, fmt.Errorf("the demo needs the rights of the owner of message_store.messages, to remove its messages at the end: "+
			"the owner is %q, and DATABASE_URL connects as %q", owner, i.user)
	case !creates:
		return i, fmt.Errorf("the demo creates a schema for its projection: connect as a role that may, or GRANT CREATE ON DATABASE %s TO %s",
			pgx.Identifier{i.database}.Sanitize(), pgx.Identifier{i.user}.Sanitize())
	case namespace && !i.store:
		return i, errors.New("the database has a schema message_store that is not Message DB's: use another database")
	case consumers.Installed && consumers.Version < schema.ConsumersVersion:
		return i, fmt.Errorf("the schema of consumers has version %d, and the demo needs version %d: run mdb install -consumers first",
			consumers.Version, schema.ConsumersVersion)
	}
	return i, nil
}

// plan says what the demo is going to do.
func (d *database) plan(found inspection) string {
	lines := []string{fmt.Sprintf("In the database %q, as the role %q, the demo is going to", found.database, found.user)}
	if !found.store {
		lines = append(lines, "  - install Message DB, which is missing there (schema message_store)")
	}
	if !found.trigger {
		lines = append(lines, "  - install the NOTIFY trigger on message_store.messages")
	}
	if !found.consumers {
		lines = append(lines, "  - install the schema of consumers, which is missing there (message_store_consumers)")
	}
	lines = append(lines,
		fmt.Sprintf("  - write to the categories %s and %s", d.accounts(), d.ticks()),
		fmt.Sprintf("  - create the schema %s and the consumer %s for a projection", d.schema(), d.consumer()),
		"  - end its own connections once, instead of restarting your server",
		"  - remove all that it created; the global positions of its messages are not used again")
	return strings.Join(lines, "\n")
}

// ask asks on the terminal.
func ask(ctx context.Context) error {
	if !term.IsTerminal(os.Stdin.Fd()) {
		return errors.New("the standard input is not a terminal, so the demo cannot ask: run make demo YES=1 to agree, or unset DATABASE_URL, so that the demo starts a server of its own")
	}
	fmt.Print("Go on? [y/N] ")
	answers := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-answers:
		if answer == "y" || answer == "yes" {
			fmt.Println()
			return nil
		}
	case <-ctx.Done():
		fmt.Println()
	}
	return errDeclined
}
