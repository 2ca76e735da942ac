package openai

import (
	"bytes"
	"strings"
	"testing"
)

func TestEditKeepsEverythingElse(t *testing.T) {
	// Spacing between members is not kept; order, unknown fields, digits and escapes are.
	body := `{"seed":12345678901234567890,"temperature":1.10,"model":"auto","messages":[{"role":"user", "content":"a\u00e9 <b>","x":1e400},` +
		`{"role":"assistant","content":null,"reasoning_content":"why","tool_calls":[{"id":"1"}]}],"guided_json":{"b":1,"a":[9007199254740993]},"top_k":-1,"n\u0061me":{}}`
	request, err := ParseChatRequest([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := request.SetModel(`m"<1>`); err != nil {
		t.Fatal(err)
	}
	edited, err := request.Encode()
	want := strings.Replace(strings.Replace(body, `"auto"`, `"m\"\u003c1\u003e"`, 1), `n\u0061me`, "name", 1)
	if err != nil || string(edited) != want {
		t.Errorf("%v\n got %s\nwant %s", err, edited, want)
	}
}

func TestRoutingText(t *testing.T) {
	for _, c := range []struct{ name, messages, want string }{
		{"last user message", `[{"role":"system","content":"s"},{"role":"user","content":"one"},{"role":"assistant","content":"a"},{"role":"user","content":"two"},{"role":"tool","content":"t"}]`, "two"},
		{"others if no user speaks", `[{"role":"system","content":"s"},{"role":"assistant","content":"a"}]`, "s\na"},
		{"parts", `[{"role":"user","content":[{"type":"text","text":"one"},{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":null},{"type":"text","text":"two"}]}]`, "one\n\ntwo"},
		{"null", `[{"role":"user","content":null}]`, ""},
		{"member names are exact", `[{"role":"user","content":"one","Content":"two","ROLE":"system"}]`, "one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := ParseChatRequest([]byte(`{"model":"m","messages":` + c.messages + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := request.RoutingText(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	message := `"messages":[{"role":"user","content":"x"}]`
	for _, c := range []struct{ name, body, want string }{
		{"empty", ``, "not valid JSON"},
		{"blank", " \n", "not valid JSON"},
		{"no JSON", `hello`, "not valid JSON"},
		{"cut", `{"model":"m",` + message, "not valid JSON"},
		{"something behind", `{"model":"m",` + message + `} x`, "not valid JSON"},
		{"missing comma", `{"model":"m" ` + message + `}`, "not valid JSON"},
		{"too deep", `{"model":"m",` + message + `,"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, "not valid JSON"},
		{"list", `[]`, "not a JSON object"},
		{"null", `null`, "not a JSON object"},
		{"no model", `{` + message + `}`, "`model`"},
		{"empty model", `{"model":"",` + message + `}`, "`model`"},
		{"model no string", `{"model":1,` + message + `}`, "`model`"},
		{"null model", `{"model":null,` + message + `}`, "`model`"},
		{"other case", `{"Model":"m",` + message + `}`, "`model`"},
		{"no messages", `{"model":"m"}`, "`messages`"},
		{"empty messages", `{"model":"m","messages":[]}`, "`messages`"},
		{"messages no list", `{"model":"m","messages":"x"}`, "`messages`"},
		{"message no object", `{"model":"m","messages":["x"]}`, "`messages`"},
		{"content no text", `{"model":"m","messages":[{"role":"user","content":"a"},{"role":"user","content":1}]}`, "`messages[1].content`"},
		{"part no text", `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":{}}]}]}`, "`text` is not a string"},
		{"model twice", `{"model":"a","model":"b",` + message + `}`, `"model" twice`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseChatRequest([]byte(c.body))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one about %s", err, c.want)
			}
		})
	}
}

func FuzzChatRequest(f *testing.F) {
	f.Add([]byte(`{"model":"auto","messages":[{"role":"user","content":[{"text":"x"}]}],"k":1e999}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := ParseChatRequest(body)
		if err != nil {
			return
		}
		if err := request.SetModel("m"); err != nil {
			t.Fatal(err)
		}
		once, err := request.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseChatRequest(once)
		if err != nil {
			t.Fatalf("%s reads as no request: %v", once, err)
		}
		if twice, _ := again.Encode(); !bytes.Equal(once, twice) || again.RoutingText() != request.RoutingText() {
			t.Fatalf("%s became %s", once, twice)
		}
	})
}

func TestParseUsage(t *testing.T) {
	if got := ParseUsage([]byte(` {"id":"x","usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"more":{}}}`)); got == nil || *got != (Usage{3, 4}) {
		t.Errorf("got %v", got)
	}
	for _, body := range []string{`{"usage":null}`, `{}`, `x`, ``} {
		if got := ParseUsage([]byte(body)); got != nil {
			t.Errorf("%s: got %v, want none", body, got)
		}
	}
}
