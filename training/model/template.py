"""Our chat template, applied in code: it renders frames in every turn, where Qwen3-VL's own drops an assistant's.

A frame of the assistant is a latent span around `<|image_pad|>`, which a processor expands to the frame's tokens.  No
system turn is invented, and nothing is put between the parts of a message.  Encoder renders the same text without
jinja, since it must know which token belongs to which part; a test holds the two to each other.
"""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'video' -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif message.role == 'assistant' -%}
                {{- '<|latent_start|><|image_pad|><|latent_end|>' -}}
            {%- else -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
