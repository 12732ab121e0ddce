"""Chat templates with the constructs that public ones use, each in words of its own."""

TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "answer without its reasoning": "{{ bos_token }}{%- for m in messages -%}{%- set c = m.content "
    "or '' -%}{%- if m.role == 'assistant' and '</think>' in c -%}"
    "{%- set c = c.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{{ '<|User|>' if m.role == 'user' else '<|Assistant|>' }}{{ c }}"
    "{%- if m.role == 'assistant' -%}{{ eos_token }}{%- endif -%}{%- endfor -%}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
    "reasoning since the last question": """
{%- set ns = namespace(last=0) -%}
{%- for m in messages[::-1] -%}
  {%- set at = messages | length - 1 - loop.index0 -%}
  {%- if m.role == 'user' and ns.last == 0 -%}{%- set ns.last = at -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- set text = m.content if m.content is string else '' -%}
  {%- if m.role == 'assistant' -%}
    {%- set thought = '' -%}
    {%- if m.reasoning_content is string -%}{%- set thought = m.reasoning_content -%}
    {%- elif '</think>' in text -%}
      {%- set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
      {%- set text = text.split('</think>')[-1].lstrip('\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if loop.index0 > ns.last or loop.first or thought -%}
      {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' -}}
    {%- endif -%}
    {{- text -}}
    {%- for call in m.tool_calls or [] -%}
      {%- set call = call.function if call.function else call -%}
      {{- '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' -}}
      {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
      {{- '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- elif m.role == 'tool' -%}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}
      {{- '<|im_start|>user' -}}
    {%- endif -%}
    {{- '\n<tool_response>\n' + text + '\n</tool_response><|im_end|>\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + m.role + '\n' + text + '<|im_end|>' + '\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}
    {{- '<think>\n\n</think>\n\n' -}}
  {%- endif -%}
{%- endif -%}
""",
    "tools as indented json": """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- 'Today: ' + (date_string if date_string is defined else '26 Jul 2024') + '\n\n' }}
{{- system }}
{{- '<|eot_id|>' }}
{%- for m in messages %}
    {%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}
        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'+ m['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if not m.tool_calls | length == 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}
        {{- '}' }}{{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {%- if m.content is mapping or m.content is iterable %}
            {{- m.content | tojson }}
        {%- else %}{{- m.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "alternating, tools before the last question": """
{%- set talk = messages[1:] if messages[0].role == 'system' else messages %}
{%- set asked = talk | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in talk | rejectattr('role', 'equalto', 'tool') | rejectattr('tool_calls', 'defined') %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
{%- endfor %}
{%- for m in talk %}
    {%- if m.role == 'user' %}
        {%- if tools and m == asked[-1] %}
            {{- '[AVAILABLE_TOOLS]' }}{{- '[' }}
            {%- for t in tools %}
                {{- '{' }}
                {%- for key, value in t.function.items() if key != 'return' %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
                    {%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}' }}
            {%- endfor %}
            {{- ']' }}{{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' ~ (m.tool_calls | map(attribute='function') | list | tojson) ~ ']' }}
        {{- eos_token }}
    {%- elif m.role == 'tool' or m.role == 'tool_results' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + '}[/TOOL_RESULTS]' }}
    {%- else %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}
{%- endfor %}
""",
    "role within a token": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content | trim + "
    "'<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "role between tokens": "{%- for m in messages %}{{- '<|start_of_role|>' ~ m['role'] ~ "
    "'<|end_of_role|>' ~ m['content'] ~ '<|end_of_text|>\n' }}{%- endfor %}"
    "{%- if documents %}{%- for d in documents %}{{- '\n' ~ loop.index ~ ': ' ~ d.title ~ ' ' ~ "
    "d['text'] | replace('<b>', '**') }}{%- endfor %}{%- endif %}",
    "another name for the assistant": "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "macros and blocks": """
{%- macro said(m, mark='#') -%}
{{ mark }} {{ m.role | upper }}: {% if m.content is string %}{{ m.content }}{% endif %}
{%- endmacro -%}
{%- macro typed(spec) %}
  {%- if spec.type == 'object' %}{% for k, v in spec.properties.items() -%}
    {{ k }}: {{ typed(v) }}{{ ', ' if not loop.last }}{%- endfor %}
  {%- else %}{{ spec.type | capitalize }}{% endif %}
{%- endmacro -%}
{%- for t in tools or [] -%}{{ typed(t.function.parameters) }}
{% endfor -%}
{%- for m in messages -%}
{%- set line -%}{{ said(m, mark='<|im_start|>') }}<|im_end|>{%- endset -%}
{{ line | indent(2, true) }}
{% filter trim %}  {{ m.content | d('', true) | length }}{{ loop.cycle('a', 'b') }} {% endfilter %}
{% if loop.previtem is defined and loop.previtem.role == m.role %}again{% endif %}
{%- endfor -%}
{{ '%s|%d' | format(messages[0].role, messages | length) }}{{ '{}<|end|>{}'.format(1, 2) }}
""",
    "text or parts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}"
    "{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}",
    "sorted and joined": "{% set ns = namespace(lines=[]) %}{% for m in messages %}"
    "{% set ns.lines = ns.lines + [m.role ~ ': ' ~ m.content] %}{% endfor %}"
    "{{ ns.lines | join('<|end|>\n') }}{{ ns.lines | map('length') | list }}"
    "{{ messages | map(attribute='role') | unique | sort | join('+') }}"
    "{{ messages | groupby('role') | length }}{{ ns.lines[0].partition(': ') | last | title }}",
}
