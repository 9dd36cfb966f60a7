package examples_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/messagedb-go/messagedb/mdbotel/internal/docs"
)

// A prometheusServer is a Prometheus that a test has started.
type prometheusServer struct{ url string }

// startPrometheus starts a Prometheus with the rules of docs/alerts.yml, which scrapes processes every second.
func startPrometheus(t *testing.T, processes ...*process) *prometheusServer {
	t.Helper()
	program := os.Getenv("MDB_TEST_PROMETHEUS")
	if program == "" {
		var err error
		if program, err = exec.LookPath("prometheus"); err != nil {
			t.Skip("Prometheus is missing: set MDB_TEST_PROMETHEUS to what scripts/fetch-prometheus prints")
		}
	}
	rules, err := filepath.Abs("../../docs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, p := range processes {
		targets = append(targets, strings.TrimPrefix(p.url, "http://"))
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: orders
    static_configs: [{targets: [%s]}]
`, rules, strings.Join(targets, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	address, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if found := listening.FindStringSubmatch(lines.Text()); found != nil {
				address <- found[1]
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	select {
	case chosen := <-address:
		return &prometheusServer{"http://" + chosen}
	case <-ended:
		t.Fatal("Prometheus has not started")
	case <-time.After(testTimeout):
		t.Fatal("Prometheus does not listen")
	}
	return nil
}

// listening finds the address in what Prometheus logs.
var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// get decodes the data of an answer. The error is that of Prometheus.
func (p *prometheusServer) get(ctx context.Context, path string, data any) error {
	status, answer, err := do(ctx, http.MethodGet, p.url+path, "")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, answer)
	}
	return json.Unmarshal([]byte(answer), &struct{ Data any }{data})
}

// values returns how many series a query selects.
func (p *prometheusServer) values(ctx context.Context, query string) (int, error) {
	var data struct{ Result []json.RawMessage }
	err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(query), &data)
	return len(data.Result), err
}

// rules returns the health of each alarm, which is ok after it was evaluated.
func (p *prometheusServer) rules(ctx context.Context) (map[string]string, error) {
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	health := make(map[string]string)
	err := p.get(ctx, "/api/v1/rules", &data)
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			health[rule.Name] = strings.TrimSpace(rule.Health + " " + rule.LastError)
		}
	}
	return health, err
}

// TestPrometheus checks, with a real Prometheus that scrapes two processes, that each panel of the dashboard shows something, and that each
// alarm can be evaluated.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	shop, payments := startProcesses(t)
	p := startPrometheus(t, shop, payments)
	panels := docs.Panels(t)
	// Nothing fails in the example, and it has no groups of writes and no replica whose lag it could observe.
	panels = slices.DeleteFunc(panels, func(p docs.Panel) bool {
		return slices.Contains([]string{"Failures", "Writes of a group", "Retries of reads", "Unknown outcomes and outages", "Lag of the replica"}, p.Title)
	})
	deadline := time.Now().Add(testTimeout)
	for n := 0; len(panels) > 0; n++ {
		shop.order(t, fmt.Sprint(n))
		shop.order(t, fmt.Sprint(n)) // a conflict
		var err error
		panels = slices.DeleteFunc(panels, func(one docs.Panel) bool {
			for _, target := range one.Targets {
				query := strings.NewReplacer("$__rate_interval", "10s", "$instance", ".*", "$consumer", ".*").Replace(target.Expr)
				found, failed := p.values(t.Context(), query)
				if failed != nil {
					err = fmt.Errorf("%s: %s: %w", one.Title, query, failed)
				}
				if found == 0 {
					return false
				}
			}
			return true
		})
		if time.Now().After(deadline) {
			t.Fatalf("these panels show nothing: %+v, %v", panels, err)
		}
	}
	for {
		health, err := p.rules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		bad := 0
		for _, state := range health {
			if state != "ok" {
				bad++
			}
		}
		if len(health) > 0 && bad == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got the rules %v, want all of them to be ok", health)
		}
	}
	for _, p := range []*process{shop, payments} {
		p.stop(t)
	}
}
