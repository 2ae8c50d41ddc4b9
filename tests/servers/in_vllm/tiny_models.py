"""Tiny models with random weights for vLLM, built from configurations alone: nothing is downloaded.

    python tiny_models.py {llava,lfm2,clip} FOLDER

writes the model into FOLDER as vLLM reads it. It needs torch and transformers.
"""

import pathlib
import string
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# Width of all layers. vLLM's attention on a CPU wants heads of 32.
WIDTH, N_HEADS, N_LAYERS = 64, 2, 2
LAYERS = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": N_HEADS,
    "num_hidden_layers": N_LAYERS,
}
TEXTS = [
    "Which option fits the image best? Which option describes the image best?",
    "Answer with the letter of one option only. a photo of a dark light one two three",
    " ".join(f"{letter}: {letter}" for letter in string.ascii_letters),
    # vLLM wants tokens for these too, whatever it is asked.
    "yes",
    "no",
]


def make_tokenizer(begin, end, pad, others=(), specials_first=True):
    """A byte pair encoding of some hundred tokens, in which each letter is a token, alone and after a blank."""
    special = list(dict.fromkeys([pad, begin, end, *others]))
    coder = Tokenizer(models.BPE())
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=special if specials_first else [], initial_alphabet=sorted(alphabet)
    )
    coder.train_from_iterator(30 * TEXTS, trainer)
    coder.add_special_tokens(special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=coder,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        additional_special_tokens=list(others),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=1024,
    )


def chat_template(begin, role, end):
    """A chat template of transformers, of messages with texts and images."""
    content = (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    )
    message = role.replace("ROLE", "{{ m.role }}") + content + end
    answer = "{% if add_generation_prompt %}" + role.replace("ROLE", "assistant") + "{% endif %}"
    return f"{begin}{{% for m in messages %}}{message}{{% endfor %}}{answer}"


def ids_of(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def wake_projector(model):
    """Make the image matter: the projector's usual weights are so small that all images look alike."""
    for weights in model.model.multi_modal_projector.parameters():
        torch.nn.init.normal_(weights, std=0.3)


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    # transformers 5 leaves a level out of the names of the vision tower that vLLM looks for.
    path, short, long = folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model."
    weights = {name if long in name else name.replace(short, long): tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def llava(folder):
    """A chat model that sees images of 56 pixels as 16 tokens, and likes to answer with a capital letter."""
    end = "<|end|>"
    tokenizer = make_tokenizer("<s>", end, "<pad>", ["<image>", "<|user|>", "<|assistant|>"])
    side, patch = 56, 14
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**LAYERS, image_size=side, patch_size=patch),
        text_config=transformers.LlamaConfig(
            **LAYERS,
            **ids_of(tokenizer),
            head_dim=WIDTH // N_HEADS,
            num_key_value_heads=N_HEADS,
            max_position_embeddings=1024,
            initializer_range=0.3,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(side // patch) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    wake_projector(model)
    letters = tokenizer.convert_tokens_to_ids(list(string.ascii_uppercase))
    with torch.no_grad():
        # Some letters are then among the 20 most likely tokens, and some are not.
        model.lm_head.weight[letters] *= 2.5
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<s>", "<|ROLE|>", end),
    )
    save(folder, model, processor)


def lfm2(folder):
    """A Liquid model, for which vLLM has System One with images.

    Its attention has one head: on a CPU, vLLM 0.32 rotates several heads of this architecture by wrong angles.
    """
    begin, end = "<|startoftext|>", "<|im_end|>"
    grid = [f"<|img_row_{row}_col_{column}|>" for row in (1, 2) for column in (1, 2)]
    image = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    tokenizer = make_tokenizer(begin, end, "<|pad|>", ["<|im_start|>", *image, *grid])
    patch = 16
    config = transformers.Lfm2VlConfig(
        vision_config=transformers.Siglip2VisionConfig(
            **LAYERS, num_patches=64, patch_size=patch, vision_use_head=False
        ),
        text_config=transformers.Lfm2Config(
            **{**LAYERS, **ids_of(tokenizer), "num_attention_heads": 1},
            num_key_value_heads=1,
            max_position_embeddings=1024,
            initializer_range=0.3,
            layer_types=["conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
            block_dim=WIDTH,
            block_ff_dim=2 * WIDTH,
            conv_dim=WIDTH,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        downsample_factor=2,
        projector_hidden_size=WIDTH,
    )
    model = transformers.Lfm2VlForConditionalGeneration(config).eval()
    wake_projector(model)
    sizes = {"tile_size": 64, "min_image_tokens": 4, "max_image_tokens": 16, "max_num_patches": 64}
    processor = transformers.Lfm2VlProcessor(
        transformers.Lfm2VlImageProcessor(
            **sizes, encoder_patch_size=patch, downsample_factor=2, do_image_splitting=False, max_pixels_tolerance=2.0
        ),
        tokenizer,
        chat_template=chat_template(begin, "<|im_start|>ROLE\n", f"{end}\n"),
    )
    save(folder, model, processor)


def clip(folder):
    """A CLIP for images of 32 pixels."""
    begin, end = "<|startoftext|>", "<|endoftext|>"
    # vLLM takes a special token of number 0 for padding.
    tokenizer = make_tokenizer(begin, end, end, specials_first=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, tokenizer.bos_token_id), (end, tokenizer.eos_token_id)],
    )
    tokenizer.model_max_length = 77
    side = 32
    config = transformers.CLIPConfig(
        text_config={**LAYERS, **ids_of(tokenizer), "max_position_embeddings": 77, "projection_dim": WIDTH},
        vision_config={**LAYERS, "image_size": side, "patch_size": 8, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
    )
    save(folder, transformers.CLIPModel(config).eval(), processor)


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    torch.manual_seed(0)
    {"llava": llava, "lfm2": lfm2, "clip": clip}[name](pathlib.Path(folder))
